//! Whole images in memory: damaged in every structure, examined, repaired, examined again, mounted and read.

mod crash;
mod damage;
mod fuzz;
mod kit;
mod logical;
