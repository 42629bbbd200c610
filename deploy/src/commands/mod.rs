//! A file for each command: its arguments, with their help, and what it does.

pub mod up;

pub mod doctor;
pub mod keys;
pub mod region;
pub mod topology;

mod attach;
pub mod dead_letters;
pub mod send;
pub mod tail;
