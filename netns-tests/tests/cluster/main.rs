//! What daemons make of single nodes, told as stories with real packets between nodes.

mod instrument;
