//! The in-app inbox: an item is a message in the region's INBOX stream, sealed with the recipient's data key.
//!
//! The stream recognises a delivery that is stored twice, so this channel makes no duplicates even when its
//! acknowledgement is lost.

mod client;

pub use client::Client;
