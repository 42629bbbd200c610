//! Kakao's Alimtalk through Aligo.
//!
//! Whatever is sent must be a text that Kakao has approved, but for the values in it. Aligo takes a message that is not,
//! says that all is well, and Kakao then drops it; so each message is compared with what is registered before anything is
//! sent ([`registered`]). Messages of one text go out together ([`batches`]), and what became of each is asked for
//! afterwards ([`results`]). A message whose call was broken off is looked for in the history ([`history`]).

mod batches;
mod client;
mod history;
mod options;
mod outcome;
mod registered;
mod request;
mod results;

pub use client::Client;
pub use options::Options;
