//! E-mail: by SMTP, and through the HTTP APIs of SendGrid and Mailchimp Transactional (Mandrill).
//!
//! [`compose`] has what every e-mail has to keep to, whoever carries it; [`api`] is the HTTP side of those who carry it
//! that way.

pub mod mandrill;
pub mod sendgrid;
pub mod smtp;

mod api;
mod compose;

pub use smtp::Smtp;
