//! E-mail.

pub mod smtp;

pub use smtp::Smtp;
