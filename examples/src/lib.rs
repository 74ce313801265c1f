//! What the program `tidegate` and the examples share: the [`demo`] site, and the program's own [`cli`].

pub mod cli;
pub mod demo;
