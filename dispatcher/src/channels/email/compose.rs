//! What every e-mail keeps to, whoever carries it: who it is from and to, its subject, and what is attached to it.

use lettre::Address;
use lettre::message::Mailbox;

use peal_common::attachment::Attachments;

use crate::channels::{ConfigError, Message};

/// An e-mail that can't be written. None of them will ever be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ComposeError {
    /// The contact has no address, or not a plain one.
    Address,
    /// A header would contain a line break or another control character.
    Header,
    /// What is attached is not what a gateway accepts.
    Attachment,
    /// It can't be put in the form that the provider wants.
    Message,
}

impl ComposeError {
    /// The stable word for the event.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            ComposeError::Address => "invalid_address",
            ComposeError::Header => "invalid_header",
            ComposeError::Attachment => "invalid_attachment",
            ComposeError::Message => "invalid_message",
        }
    }
}

/// What stands in the head of an e-mail and comes from others. Nothing in it ends a header and begins another one.
#[derive(Debug)]
pub(super) struct Head<'a> {
    pub(super) to: Address,
    pub(super) subject: &'a str,
}

/// Takes the head of a message, or refuses it.
pub(super) fn head<'a>(message: &Message<'a>) -> Result<Head<'a>, ComposeError> {
    let rendered = message.rendered;
    let to = recipient(message.contact.address.as_deref().unwrap_or_default())?;
    let subject = rendered.subject.as_deref().or(rendered.title.as_deref()).unwrap_or_default();
    if subject.contains(char::is_control) { Err(ComposeError::Header) } else { Ok(Head { to, subject }) }
}

/// The identifier of an e-mail, with its angle brackets: the same on every attempt and whoever carries it, so that mailboxes and
/// people recognise a repetition.
pub(super) fn message_id(message: &Message<'_>, from: &Mailbox) -> String {
    // The domain is the sender's, so that the identifier is unique without naming a machine.
    format!("<{}@{}>", message.delivery.as_str(), from.email.domain())
}

/// The headers that are the same whoever carries the e-mail. Their values are plain ASCII.
pub(super) fn headers(
    message: &Message<'_>,
    from: &Mailbox,
) -> Result<Vec<(&'static str, String)>, ComposeError> {
    let mut headers = vec![
        ("Message-ID", message_id(message, from)),
        // Keeps holiday replies from coming back (RFC 3834 §5).
        ("Auto-Submitted", "auto-generated".to_owned()),
    ];
    if let Some(link) = message.unsubscribe {
        if !link.bytes().all(is_plain) {
            return Err(ComposeError::Header);
        }
        // RFC 2369 §3.2, and RFC 8058 §3.1, which has mailbox providers post to the link.
        headers.push(("List-Unsubscribe", format!("<{link}>")));
        headers.push(("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".to_owned()));
    }
    Ok(headers)
}

/// Takes the files that go along. The gateway has checked them, but what stands in a queue decides here about headers: it
/// is looked at once more.
pub(super) fn attachments<'a>(message: &Message<'a>) -> Result<&'a Attachments, ComposeError> {
    match message.attachments.check().is_empty() {
        true => Ok(message.attachments),
        false => Err(ComposeError::Attachment),
    }
}

/// Whether a byte may stand between angle brackets.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"<>".contains(&byte)
}

fn recipient(address: &str) -> Result<Address, ComposeError> {
    if address.contains(char::is_control) {
        return Err(ComposeError::Header);
    }
    if !address.bytes().all(is_plain) {
        return Err(ComposeError::Address);
    }
    address.parse().map_err(|_| ComposeError::Address)
}

/// The sender that a setting names.
pub(super) fn sender(key: &'static str, text: &str) -> Result<Mailbox, ConfigError> {
    let advice = "write an address such as no-reply@example.com or Shop <no-reply@example.com>";
    let invalid = || ConfigError::invalid(key, advice);
    if text.contains(char::is_control) {
        return Err(invalid());
    }
    let mailbox: Mailbox = text.parse().map_err(|_| invalid())?;
    // A quoted name may hold an escaped control character, on which lettre panics.
    if mailbox.name.as_deref().is_some_and(|name| name.contains(char::is_control)) {
        return Err(invalid());
    }
    // The domain becomes part of headers and commands; lettre would let a quoted or non-ASCII one pass.
    let plain = mailbox.email.as_ref() as &str;
    if plain.bytes().all(|byte| byte.is_ascii_graphic()) { Ok(mailbox) } else { Err(invalid()) }
}
