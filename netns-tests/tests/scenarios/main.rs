//! What every plug-in does to real packets, told as stories, each on a node of its own that must be as before.
//! Stories in `on_both!` run on our plug-ins and on the reference's.

mod bridge;
mod conflists;
