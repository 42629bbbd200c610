//! Text messages to phones, through one of three kinds of provider.
//!
//! None of them recognises a message that comes twice, so whatever may have been taken is ambiguous, and only what
//! certainly was not is tried again.

pub mod http;
pub mod twilio;
pub mod vonage;

mod account;
mod text;

pub(super) use text::segments_of as segments;
