//! Everything that needs more than one module, or the real binary. One test binary, so that it links once.

mod adapters;
mod bad_input;
mod binary;
mod consistency;
mod embedding;
mod exporting;
mod fixtures;
mod hostile;
mod hub;
mod kept;
mod kills;
mod latent;
mod layers;
mod network;
mod orders;
mod pictures;
mod readme;
mod reports;
mod resuming;
mod sampling;
mod seeds;
mod training;
