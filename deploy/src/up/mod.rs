//! What `peal up` is made of: the folder that holds everything, the settings in it, the processes and who watches them,
//! and the first notification. The order of things stands in [`crate::commands::up`].

pub mod folder;
pub mod place;
pub mod settings;

pub mod health;
pub mod process;
pub mod supervise;

pub mod ready;

pub mod first;
pub mod summary;
