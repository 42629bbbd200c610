//! The text of an e-mail (RFC 5322).

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use lettre::Address;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};

use crate::channels::Message;
use crate::channels::email::compose::{self, ComposeError, Head};

/// An e-mail that is ready to be sent.
#[derive(Debug)]
pub(super) struct Mail {
    /// The address of the envelope.
    pub(super) to: Address,
    /// With angle brackets, the same on every attempt.
    pub(super) message_id: String,
    /// ASCII, lines ended by CR LF.
    pub(super) text: Vec<u8>,
}

/// Writes the e-mail, dated `now`.
pub(super) fn compose(message: &Message<'_>, from: &Mailbox, now: Timestamp) -> Result<Mail, ComposeError> {
    let rendered = message.rendered;
    let Head { to, subject } = compose::head(message)?;
    // The domain is the sender's, so that the identifier is unique without naming a machine.
    let message_id = format!("<{}@{}>", message.delivery.as_str(), from.email.domain());
    let mut builder = lettre::Message::builder()
        .from(from.clone())
        .to(Mailbox::new(None, to.clone()))
        .subject(subject)
        .date(system_time(now))
        .message_id(Some(message_id.clone()));
    for (name, value) in compose::headers(message)? {
        // The value is ASCII and, having no spaces to fold at, one line.
        let value = HeaderValue::dangerous_new_pre_encoded(
            HeaderName::new_from_ascii_str(name),
            value.clone(),
            value,
        );
        builder = builder.raw_header(value);
    }
    let text = || SinglePart::plain(crlf(&rendered.text));
    let email = match rendered.html.as_deref() {
        None => builder.singlepart(text()),
        Some(html) if rendered.text.is_empty() => builder.singlepart(SinglePart::html(crlf(html))),
        Some(html) => builder
            .multipart(MultiPart::alternative().singlepart(text()).singlepart(SinglePart::html(crlf(html)))),
    };
    let text = email.map_err(|_| ComposeError::Message)?.formatted();
    Ok(Mail { to, message_id, text })
}

/// Ends every line with CR LF. A bare CR or LF left in the text could end the e-mail early at a server that takes it
/// for a line end, and start a forged one ("SMTP smuggling").
fn crlf(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 32);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\r' => {
                let _ = characters.next_if_eq(&'\n');
                out.push_str("\r\n");
            }
            '\n' => out.push_str("\r\n"),
            '\0' => {}
            other => out.push(other),
        }
    }
    out
}

/// Dates before 1970 don't occur; a clock that is set so gives the epoch.
fn system_time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use peal_common::category::Class;
    use peal_common::channel::{Channel, Priority};
    use peal_common::id::{AppId, DeliveryId};
    use peal_common::recipient::Contact;
    use peal_common::seal::{DataKey, DataKeys};
    use peal_common::template::Rendered;
    use rand::SeedableRng as _;

    use super::*;

    fn composed(from: &str, address: &str, rendered: &Rendered) -> Result<String, ComposeError> {
        let app: AppId = "shop".parse().unwrap();
        let (notification, recipient) = ("n".parse().unwrap(), "u".parse().unwrap());
        let delivery = DeliveryId::derive(&app, &notification, &recipient, Channel::Email, "", 0);
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let message = Message {
            region: &"eu".parse().unwrap(),
            app: &app,
            notification: &notification,
            delivery: &delivery,
            category: &"orders".parse().unwrap(),
            class: Class::Transactional,
            priority: Priority::Normal,
            recipient: &recipient,
            contact: &Contact::at(Channel::Email, address.to_owned()),
            data_keys: &DataKeys::new(
                DataKey::generate(&mut rand::rngs::StdRng::seed_from_u64(1)),
                Vec::new(),
            ),
            rendered,
            accepted_at: now,
            expires_at: now,
            attempt: 1,
            collapse_key: None,
            unsubscribe: None,
            metadata: &serde_json::Map::new(),
        };
        let mail = compose(&message, &from.parse().unwrap(), now)?;
        assert_eq!(mail.message_id, format!("<{delivery}@example.com>"));
        Ok(String::from_utf8(mail.text).unwrap())
    }

    fn rendered(subject: &str, text: &str, html: Option<&str>) -> Rendered {
        Rendered {
            subject: Some(subject.to_owned()),
            text: text.to_owned(),
            html: html.map(str::to_owned),
            ..Rendered::default()
        }
    }

    const FROM: &str = "Shop <no-reply@example.com>";

    #[test]
    fn headers_and_both_parts_are_there() {
        let text =
            composed(FROM, "a@example.org", &rendered("Your order", "Shipped.", Some("<p>Shipped.</p>")))
                .unwrap();
        for line in [
            "From: Shop <no-reply@example.com>\r\n",
            "To: a@example.org\r\n",
            "Subject: Your order\r\n",
            "Date: Sun, 22 Nov 2026 12:00:00 +0000\r\n",
            "Message-ID: <",
            "Auto-Submitted: auto-generated\r\n",
            "multipart/alternative",
            "\r\n\r\nShipped.\r\n",
            "\r\n\r\n<p>Shipped.</p>\r\n",
        ] {
            assert!(text.contains(line), "{line:?} is missing in {text}");
        }
        let plain = composed(FROM, "a@example.org", &rendered("s", "t", None)).unwrap();
        assert!(!plain.contains("multipart"));
        let html = composed(FROM, "a@example.org", &rendered("s", "", Some("<p>x</p>"))).unwrap();
        assert!(!html.contains("multipart") && html.contains("text/html"));
    }

    #[test]
    fn nothing_smuggles_a_header_in() {
        let bad = rendered("x\r\nBcc: b@example.org", "t", None);
        assert_eq!(composed(FROM, "a@example.org", &bad), Err(ComposeError::Header));
        assert_eq!(composed(FROM, "a@example.org", &rendered("a\0b", "t", None)), Err(ComposeError::Header));
        let fine = rendered("s", "t", None);
        for address in ["a@example.org\r\nRCPT TO:<b@example.org>", "a\0@example.org", "a@example.org\n"] {
            assert_eq!(composed(FROM, address, &fine), Err(ComposeError::Header), "{address:?}");
        }
        for address in ["", "a", "a@example.org> x", "ä@example.org", "A <a@example.org>"] {
            assert_eq!(composed(FROM, address, &fine), Err(ComposeError::Address), "{address:?}");
        }
    }

    #[test]
    fn other_alphabets_and_stray_line_ends_become_plain_ascii_lines() {
        let text = composed(
            "\"가게, 주문\" <no-reply@example.com>",
            "a@example.org",
            &rendered("주문이 발송되었습니다 🎉", "a\n.\rb\r\n..\n", None),
        )
        .unwrap();
        assert!(text.is_ascii());
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
        assert!(text.ends_with("\r\n\r\na\r\n.\r\nb\r\n..\r\n\r\n"), "{text:?}");
    }
}
