//! What daemons make of single nodes, told as stories with real packets between nodes.

mod acceptance;
mod api;
mod churn;
mod instrument;
mod kills;
mod mistakes;
mod reach;
mod repair;
mod services;
mod tunnels;
