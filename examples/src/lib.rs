//! What the program `tidegate` and the examples share: the [`demo`] site.

pub mod demo;
