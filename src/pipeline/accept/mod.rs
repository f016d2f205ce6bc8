//! accept

pub mod frames;
