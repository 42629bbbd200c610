//! How large a rendered text is, and what its channel will make of it: for previews, not for refusals.

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::channel::Channel;

use super::Rendered;
use super::sms::{self, Encoding};

/// Largest APNs payload, in bytes (Apple, "Generating a remote notification").
pub const MAX_APNS_BYTES: usize = 4096;
/// Largest FCM payload, in bytes (Firebase, "About FCM messages").
pub const MAX_FCM_BYTES: usize = 4096;
/// Largest Web Push plain text, in bytes: 4096 of ciphertext (RFC 8030 section 7.2) less what RFC 8188 and RFC 8291
/// add.
pub const MAX_WEBPUSH_BYTES: usize = 3993;
/// Longest Telegram message, in characters without its tags (Bot API, sendMessage).
pub const MAX_TELEGRAM_CHARS: usize = 4096;
/// Longest Alimtalk text, in characters.
pub const MAX_ALIMTALK_CHARS: usize = 1000;
/// From here on an SMS is worth a warning: the parts beyond which carriers begin to drop or to convert.
pub const MANY_SEGMENTS: usize = 6;
/// The most parts of an SMS that is sent. Ten hold at most 1,530 characters: less than the 1,600 that Twilio takes
/// (Messages resource, `Body`).
pub const MAX_SEGMENTS: usize = 10;

/// The size of a rendered text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Size {
    /// Bytes of everything that is shown; for push, of the payload that carries it.
    pub bytes: usize,
    /// Parts of a text message; for SMS alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segments: Option<usize>,
    /// The alphabet of a text message; for SMS alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
}

/// The size of `rendered` on `channel`, and sentences about limits that it passes.
#[must_use]
pub fn size_warnings(channel: Channel, rendered: &Rendered) -> (Size, Vec<String>) {
    let mut warnings = Vec::new();
    let (mut segments, mut encoding) = (None, None);
    let bytes = match channel {
        Channel::Apns | Channel::Fcm | Channel::Webpush => payload_bytes(channel, rendered),
        _ => shown_bytes(rendered),
    };
    let mut limit = |what: &str, size: usize, most: usize, unit: &str| {
        if size > most {
            warnings.push(format!("{what} takes at most {most} {unit}; this text has {size}"));
        }
    };
    match channel {
        Channel::Apns => limit("APNs", bytes, MAX_APNS_BYTES, "bytes"),
        Channel::Fcm => limit("FCM", bytes, MAX_FCM_BYTES, "bytes"),
        Channel::Webpush => limit("Web Push", bytes, MAX_WEBPUSH_BYTES, "bytes"),
        Channel::Telegram => {
            limit("Telegram", visible_characters(&rendered.text), MAX_TELEGRAM_CHARS, "characters");
        }
        Channel::Alimtalk => {
            limit("Alimtalk", rendered.text.chars().count(), MAX_ALIMTALK_CHARS, "characters")
        }
        Channel::Sms => {
            let size = sms::segments(&rendered.text);
            (segments, encoding) = (Some(size.segments), Some(size.encoding));
            limit("SMS", size.segments, MAX_SEGMENTS, "parts");
            if size.segments > MANY_SEGMENTS {
                warnings.push(format!("this text is sent and billed as {} messages", size.segments));
            }
            if size.encoding == Encoding::Ucs2 && size.segments > 1 {
                warnings.push(format!(
                    "characters outside the GSM alphabet leave {} of them to a part instead of {}",
                    sms::UCS2_PART,
                    sms::GSM7_PART
                ));
            }
        }
        Channel::Email | Channel::Webhook | Channel::Inbox => {}
    }
    let shows_nothing =
        rendered.text.trim().is_empty() && rendered.html.is_none() && rendered.title.is_none();
    if shows_nothing {
        warnings.push("the text is empty".to_owned());
    }
    (Size { bytes, segments, encoding }, warnings)
}

fn shown_bytes(rendered: &Rendered) -> usize {
    let fields = [&rendered.title, &rendered.subject, &rendered.html, &rendered.url];
    rendered.text.len() + fields.into_iter().flatten().map(String::len).sum::<usize>()
}

/// An estimate: the dispatcher adds identifiers and tracking links of its own.
fn payload_bytes(channel: Channel, rendered: &Rendered) -> usize {
    let alert = json!({"title": rendered.title, "body": rendered.text});
    let payload = match channel {
        Channel::Apns => json!({"aps": {"alert": alert, "sound": "default"}, "url": rendered.url}),
        Channel::Fcm => json!({"notification": alert, "data": {"url": rendered.url}}),
        _ => json!({"title": rendered.title, "body": rendered.text, "url": rendered.url}),
    };
    payload.to_string().len()
}

/// Characters of an HTML text without its tags, each entity being one.
fn visible_characters(html: &str) -> usize {
    let (mut count, mut rest) = (0, html);
    while let Some(first) = rest.chars().next() {
        let skip = match first {
            '<' => rest.find('>').map(|end| (end + 1, 0)),
            '&' => rest.find(';').filter(|end| *end <= 8).map(|end| (end + 1, 1)),
            _ => None,
        };
        let (bytes, characters) = skip.unwrap_or((first.len_utf8(), 1));
        count += characters;
        rest = &rest[bytes..];
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: String) -> Rendered {
        Rendered { text, ..Rendered::default() }
    }

    #[test]
    fn a_limit_is_warned_of_when_it_is_passed_and_not_before() {
        let warned = |channel, length| !size_warnings(channel, &text("가".repeat(length))).1.is_empty();
        assert!(!warned(Channel::Alimtalk, 1000));
        assert!(warned(Channel::Alimtalk, 1001));
        assert!(!warned(Channel::Telegram, 4096));
        assert!(warned(Channel::Telegram, 4097));
        for channel in [Channel::Apns, Channel::Fcm, Channel::Webpush] {
            assert!(!warned(channel, 1200));
            assert!(warned(channel, 1400));
        }
        assert!(!warned(Channel::Email, 10_000));
    }

    #[test]
    fn telegram_counts_what_is_seen() {
        assert_eq!(visible_characters("<b>a &lt; b</b> &amp; 가"), 9);
        assert_eq!(visible_characters("a < b & c"), 9);
        assert_eq!(visible_characters("&#39;&quot;"), 2);
    }

    #[test]
    fn only_text_messages_have_parts() {
        let (size, warnings) = size_warnings(Channel::Sms, &text("가".repeat(71)));
        assert_eq!(size, Size { bytes: 213, segments: Some(2), encoding: Some(Encoding::Ucs2) });
        assert_eq!(warnings.len(), 1);
        let plain = Size { bytes: 1, segments: None, encoding: None };
        assert_eq!(size_warnings(Channel::Email, &text("a".into())).0, plain);
        let most = "x".repeat(153 * MAX_SEGMENTS);
        let warned = |long: String| size_warnings(Channel::Sms, &text(long)).1.join("; ");
        assert!(!warned(most.clone()).contains("at most"));
        assert!(warned(most + "x").contains("SMS takes at most 10 parts; this text has 11"));
    }

    #[test]
    fn an_empty_text_is_pointed_out() {
        assert_eq!(size_warnings(Channel::Inbox, &text(" ".into())).1.len(), 1);
    }
}
