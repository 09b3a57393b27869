//! What a diffusion process is: in which order positions lose their noise, how fast, and what noise is.

pub mod ar_diffusion;
pub mod corruption;
pub mod d3pm;
pub mod ddpm;
pub mod duality;
pub mod gaussian;
pub mod order;
pub mod schedule;

pub use corruption::Corruption;
pub use order::{Context, Grid, Layout, Order, Pattern, Phases, Reading};
pub use schedule::Schedule;
