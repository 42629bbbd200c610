//! What is checked of a message before anything is sent.

use peal_common::outcome::Outcome;
use peal_common::template::MAX_SEGMENTS;
use peal_common::template::sms::{Segments, segments};

use crate::channels::Message;
use crate::channels::outcomes::permanent;

/// A message that may be sent: its number (E.164, with +), its text, and what that takes.
pub(super) struct Checked<'a> {
    pub(super) to: &'a str,
    pub(super) text: &'a str,
    pub(super) size: Segments,
}

/// Checks the number and the text.
///
/// # Errors
/// The outcome, when the message can't be sent.
pub(super) fn check<'a>(message: &Message<'a>) -> Result<Checked<'a>, Outcome> {
    let to = message.contact.address.as_deref().unwrap_or_default();
    let is_number = to
        .strip_prefix('+')
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
    if !is_number {
        return Err(permanent("invalid_address"));
    }
    let text = message.rendered.text.as_str();
    if text.trim().is_empty() {
        return Err(permanent("message_empty"));
    }
    let size = segments(text);
    if size.segments > MAX_SEGMENTS {
        return Err(permanent(format!("too_many_segments: {} of {MAX_SEGMENTS}", size.segments)));
    }
    Ok(Checked { to, text, size })
}

/// How many segments are sent of a message: none of one that can't be sent.
pub(in crate::channels) fn segments_of(message: &Message<'_>) -> u32 {
    check(message).map_or(0, |checked| checked.size.segments as u32)
}
