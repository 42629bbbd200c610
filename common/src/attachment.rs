//! Files that a notification brings along for its e-mails.
//!
//! They stay in base64 from the request to the provider: two of the three ways to send an e-mail want them so, and JSON
//! has no other form for them. Copies of a notification share them.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::FieldError;

/// The most attachments of one notification. An e-mail with more is better served by an archive, or by a link.
pub const MAX_ATTACHMENTS: usize = 10;
/// The most that the attachments of one notification may hold together, decoded, in bytes. As base64 they grow by a third,
/// and have to fit into a request of 512 KiB ([`MAX_REQUEST_BYTES`](crate::notification::MAX_REQUEST_BYTES)) with the rest
/// of the notification; a delivery that nobody can read is base64 once more, as a dead letter, and has to fit into a NATS
/// message of 1 MiB. Every provider takes far more: SendGrid 30 MB an e-mail, Mailchimp Transactional 25 MB, and SMTP
/// servers at least 10 MB as a rule.
pub const MAX_ATTACHED_BYTES: usize = 256 * 1024;
/// The most targets of a notification with attachments. Each e-mail waits with a copy of its own in `WORK_EMAIL`, which
/// holds 128 MiB on a laptop: this many copies of the largest attachments take 35 MiB of it.
pub const MAX_TARGETS_WITH_ATTACHMENTS: usize = 100;
/// The longest name of a file, in bytes: what common file systems take.
const MAX_FILENAME_BYTES: usize = 255;
/// The longest half of a content type, in bytes (RFC 6838 §4.2).
const MAX_TYPE_BYTES: usize = 127;

/// A file that goes along with a notification's e-mails; other channels are sent without it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The name under which it is shown and saved: 1 to 255 bytes without `/`, `\` and control characters.
    #[schema(example = "invoice.pdf", min_length = 1, max_length = 255)]
    pub filename: String,
    /// What it is, as `type/subtype` without parameters; `application/octet-stream` if nothing better is known. Neither
    /// `multipart/…` nor `message/…`, which mail programs would take apart.
    #[schema(example = "application/pdf")]
    pub content_type: String,
    /// The file itself in base64 (RFC 4648 §4, padded, in one line); all attachments together hold at most 256 KiB.
    #[schema(content_encoding = "base64", example = "JVBERi0xLjcK")]
    pub content: String,
}

/// What may be told of an attachment: everything but the file itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentSummary {
    /// Its name.
    pub filename: String,
    /// What it is.
    pub content_type: String,
    /// Its size in bytes, decoded.
    pub size: usize,
}

/// The attachments of a notification, in order. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attachments(Arc<[Attachment]>);

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the file nor its name, which may be personal: what is shown here may end up in a log.
        f.debug_struct("Attachment")
            .field("content_type", &self.content_type)
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

impl Deref for Attachments {
    type Target = [Attachment];

    fn deref(&self) -> &[Attachment] {
        &self.0
    }
}

impl FromIterator<Attachment> for Attachments {
    fn from_iter<T: IntoIterator<Item = Attachment>>(all: T) -> Self {
        Attachments(all.into_iter().collect())
    }
}

impl Attachment {
    /// How many bytes the file has, going by the length of its base64.
    #[must_use]
    pub fn size(&self) -> usize {
        let padding = self.content.bytes().rev().take(2).take_while(|byte| *byte == b'=').count();
        (self.content.len() / 4 * 3).saturating_sub(padding)
    }

    /// The file itself; `None` when its base64 is not in order, which no accepted one is.
    #[must_use]
    pub fn decode(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.content).ok()
    }

    /// What may be told of it.
    #[must_use]
    pub fn summary(&self) -> AttachmentSummary {
        AttachmentSummary {
            filename: self.filename.clone(),
            content_type: self.content_type.clone(),
            size: self.size(),
        }
    }

    fn check(&self, path: &str, errors: &mut Vec<FieldError>) {
        let mut found = |field: &str, code: &str, detail: &str| {
            errors.push(FieldError::new(format!("{path}.{field}"), code, detail));
        };
        if !is_filename(&self.filename) {
            found(
                "filename",
                "invalid_filename",
                "write a name of 1 to 255 bytes such as invoice.pdf, without /, \\ and control characters",
            );
        }
        if !is_content_type(&self.content_type) {
            found(
                "content_type",
                "invalid_content_type",
                "write a type such as application/pdf, without parameters and neither multipart nor message",
            );
        }
        if self.content.is_empty() {
            found("content", "empty", "write the file in base64, or leave the attachment out");
        } else if self.decode().is_none() {
            found(
                "content",
                "invalid_base64",
                "write standard base64 with its padding, in one line (RFC 4648 section 4)",
            );
        }
    }
}

impl Attachments {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is wrong with them; nothing if they can be accepted.
    #[must_use]
    pub fn check(&self) -> Vec<FieldError> {
        let field = "attachments";
        if self.len() > MAX_ATTACHMENTS {
            let detail = format!("a notification has at most {MAX_ATTACHMENTS} attachments");
            return vec![FieldError::new(field, "too_many", detail)];
        }
        let mut errors = Vec::new();
        let size = self.iter().fold(0_usize, |sum, one| sum.saturating_add(one.size()));
        if size > MAX_ATTACHED_BYTES {
            let limit = MAX_ATTACHED_BYTES / 1024;
            let detail =
                format!("all attachments together hold at most {limit} KiB; send a link to what is larger");
            errors.push(FieldError::new(field, "too_large", detail));
        }
        for (index, attachment) in self.iter().enumerate() {
            attachment.check(&format!("{field}[{index}]"), &mut errors);
        }
        errors
    }
}

fn is_filename(name: &str) -> bool {
    (1..=MAX_FILENAME_BYTES).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|character: char| character.is_control() || matches!(character, '/' | '\\'))
}

/// Names of registered types keep to RFC 6838 §4.2, which is stricter than what RFC 2045 §5.1 and RFC 9110 §8.3.1 can
/// parse: so every mail program and every provider reads them alike.
fn is_content_type(text: &str) -> bool {
    let is_name = |name: &str| {
        (1..=MAX_TYPE_BYTES).contains(&name.len())
            && name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    text.split_once('/').is_some_and(|(kind, subtype)| {
        is_name(kind)
            && is_name(subtype)
            && !["multipart", "message"].iter().any(|parted| kind.eq_ignore_ascii_case(parted))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attachment(filename: &str, content_type: &str, content: &str) -> Attachment {
        Attachment {
            filename: filename.to_owned(),
            content_type: content_type.to_owned(),
            content: content.to_owned(),
        }
    }

    fn codes(attachments: &Attachments) -> Vec<(String, String)> {
        attachments.check().into_iter().map(|error| (error.field, error.code)).collect()
    }

    fn of(sizes: &[usize]) -> Attachments {
        let file =
            |size: &usize| attachment("a.bin", "application/octet-stream", &STANDARD.encode(vec![7; *size]));
        sizes.iter().map(file).collect()
    }

    #[test]
    fn good_ones_pass() {
        let long = "x".repeat(255);
        let half = "x".repeat(127);
        let all = [
            attachment("invoice.pdf", "application/pdf", "JVBERi0xLjcK"),
            attachment("invoice.pdf", "application/pdf", "JVBERi0xLjcK"),
            attachment("청구서 11월 \"final\".pdf", "application/vnd.ms-excel.sheet.macroEnabled.12", "AA=="),
            attachment("...", "image/svg+xml", "AAA="),
            attachment(&long, &format!("{half}/{half}"), "AAAA"),
            attachment(".bashrc", "TEXT/X-SH", "//8="),
        ];
        assert_eq!(codes(&all.into_iter().collect()), []);
        assert_eq!(codes(&Attachments::default()), []);
    }

    #[test]
    fn each_mistake_names_its_field() {
        let check = |bad: Attachment, field: &str, code: &str| {
            let shown = format!("{:?} {:?} {:?}", bad.filename, bad.content_type, bad.content);
            let all = [attachment("a", "text/plain", "AAAA"), bad].into_iter().collect();
            assert_eq!(codes(&all), [(format!("attachments[1].{field}"), code.to_owned())], "{shown}");
        };
        let long = "x".repeat(256);
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a\\b",
            "../a",
            "a\r\nBcc: b@x.de",
            "a\n",
            "a\0b",
            "a\u{7f}",
            "a\u{85}",
            &long,
        ] {
            check(attachment(name, "text/plain", "AAAA"), "filename", "invalid_filename");
        }
        let half = "x".repeat(128);
        for kind in [
            "",
            "text",
            "text/",
            "/plain",
            "text/plain/x",
            "text/*",
            "*/*",
            "text/plain; charset=utf-8",
            "text/plain\r\nX: y",
            " text/plain",
            "text /plain",
            "tëxt/plain",
            "text/\"plain\"",
            "multipart/mixed",
            "Message/RFC822",
            ".text/plain",
            &format!("text/{half}"),
        ] {
            check(attachment("a", kind, "AAAA"), "content_type", "invalid_content_type");
        }
        check(attachment("a", "text/plain", ""), "content", "empty");
        // Without padding, too much of it, not in one line, of the other alphabet, with bits that say nothing.
        for content in
            ["AA", "AAA", "A", "AA=", "AA==AA==", "====", "AAAA\r\nAAAA", " AAAA", "-_8=", "AB==", "ä"]
        {
            check(attachment("a", "text/plain", content), "content", "invalid_base64");
        }
    }

    #[test]
    fn there_is_a_limit_to_their_number_and_to_their_size() {
        assert_eq!(codes(&of(&[1; MAX_ATTACHMENTS])), []);
        let is = |code: &str| [("attachments".to_owned(), code.to_owned())];
        assert_eq!(codes(&of(&[1; MAX_ATTACHMENTS + 1])), is("too_many"));
        assert_eq!(codes(&of(&[MAX_ATTACHED_BYTES - 2, 1, 1])), []);
        assert_eq!(codes(&of(&[MAX_ATTACHED_BYTES - 2, 1, 2])), is("too_large"));
        assert_eq!(codes(&of(&[MAX_ATTACHED_BYTES + 1])), is("too_large"));
    }

    #[test]
    fn neither_name_nor_content_is_shown_in_logs() {
        let secret = attachment("kim.pdf", "application/pdf", "c2VjcmV0");
        let shown = format!("{:?}", Attachments::from_iter([secret]));
        assert!(!shown.contains("kim") && !shown.contains("c2VjcmV0"), "{shown}");
        assert!(shown.contains("size: 6"), "{shown}");
    }

    #[test]
    fn unknown_fields_are_refused() {
        let with = r#"{"filename": "a", "content_type": "text/plain", "content": "AAAA", "inline": true}"#;
        assert!(serde_json::from_str::<Attachment>(with).is_err());
    }

    proptest! {
        #[test]
        fn the_size_is_that_of_the_file(file in proptest::collection::vec(any::<u8>(), 1..50)) {
            let one = attachment("a", "text/plain", &STANDARD.encode(&file));
            prop_assert_eq!(one.size(), file.len());
            prop_assert_eq!(one.decode().unwrap(), file);
        }
    }
}
