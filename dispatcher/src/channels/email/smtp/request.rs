//! The text of an e-mail (RFC 5322).

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use lettre::Address;
use lettre::message::header::{
    ContentDisposition, ContentTransferEncoding, ContentType, HeaderName, HeaderValue,
};
use lettre::message::{Body, Mailbox, MultiPart, SinglePart};

use peal_common::attachment::Attachment;
use peal_common::template::Rendered;

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
    let mut builder = lettre::Message::builder()
        .from(from.clone())
        .to(Mailbox::new(None, to.clone()))
        .subject(subject)
        .date(system_time(now));
    for (name, value) in compose::headers(message, from)? {
        // The value is ASCII and, having no spaces to fold at, one line.
        let value = HeaderValue::dangerous_new_pre_encoded(
            HeaderName::new_from_ascii_str(name),
            value.clone(),
            value,
        );
        builder = builder.raw_header(value);
    }
    let files = compose::attachments(message)?.iter().map(file).collect::<Result<Vec<_>, _>>()?;
    let said = said(rendered);
    let email = match (files.is_empty(), said) {
        (true, Said::Once(part)) => builder.singlepart(part),
        (true, Said::Twice(parts)) => builder.multipart(parts),
        // The text comes first: what comes after it is shown as attached (RFC 2046 §5.1.3).
        (false, said) => {
            let mixed = match said {
                Said::Once(part) => MultiPart::mixed().singlepart(part),
                Said::Twice(parts) => MultiPart::mixed().multipart(parts),
            };
            builder.multipart(files.into_iter().fold(mixed, MultiPart::singlepart))
        }
    };
    let text = email.map_err(|_| ComposeError::Message)?.formatted();
    Ok(Mail { to, message_id: compose::message_id(message, from), text })
}

/// The text of an e-mail.
enum Said {
    /// In one form.
    Once(SinglePart),
    /// As plain text and as HTML, of which the mail program shows one.
    Twice(MultiPart),
}

fn said(rendered: &Rendered) -> Said {
    let text = || SinglePart::plain(crlf(&rendered.text));
    match rendered.html.as_deref() {
        None => Said::Once(text()),
        Some(html) if rendered.text.is_empty() => Said::Once(SinglePart::html(crlf(html))),
        Some(html) => {
            Said::Twice(MultiPart::alternative().singlepart(text()).singlepart(SinglePart::html(crlf(html))))
        }
    }
}

/// An attached file. It is always base64, whatever it holds: its line ends must neither change nor end the e-mail.
fn file(attachment: &Attachment) -> Result<SinglePart, ComposeError> {
    let kind = ContentType::parse(&attachment.content_type).map_err(|_| ComposeError::Attachment)?;
    let bytes = attachment.decode().ok_or(ComposeError::Attachment)?;
    let body = Body::new_with_encoding(bytes, ContentTransferEncoding::Base64);
    // Names that are not ASCII, or too long for a line, are written as RFC 2231 has it.
    let disposition = ContentDisposition::attachment(&attachment.filename);
    Ok(SinglePart::builder()
        .header(kind)
        .header(disposition)
        .body(body.map_err(|_| ComposeError::Attachment)?))
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
    use peal_common::attachment::Attachments;
    use peal_common::category::Class;
    use peal_common::channel::{Channel, Priority};
    use peal_common::id::{AppId, DeliveryId};
    use peal_common::recipient::Contact;
    use peal_common::seal::{DataKey, DataKeys};
    use proptest::prelude::*;
    use rand::SeedableRng as _;

    use super::*;

    fn composed(from: &str, address: &str, rendered: &Rendered) -> Result<String, ComposeError> {
        composed_with(&Attachments::default(), from, address, rendered)
    }

    fn composed_with(
        attachments: &Attachments,
        from: &str,
        address: &str,
        rendered: &Rendered,
    ) -> Result<String, ComposeError> {
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
            attachments,
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

    /// An e-mail with one attachment, and what stands before the attachment's own text.
    fn attached(filename: &str, content_type: &str, content: &str) -> Result<(String, String), ComposeError> {
        let file = Attachment {
            filename: filename.to_owned(),
            content_type: content_type.to_owned(),
            content: content.to_owned(),
        };
        let attachments = Attachments::from_iter([file]);
        let text = composed_with(&attachments, FROM, "a@example.org", &rendered("s", "t", None))?;
        let (before, rest) = text.split_once("Content-Disposition").unwrap();
        let head = rest.split_once("\r\n\r\n").unwrap().0;
        let kind = before.rsplit_once("Content-Type").unwrap().1;
        Ok((text.clone(), format!("Content-Type{kind}Content-Disposition{head}\r\n")))
    }

    #[test]
    fn names_of_files_are_written_so_that_every_mail_program_reads_them() {
        let head = |name: &str| attached(name, "application/pdf", "JVBERi0xLjcK").unwrap().1;
        let with = |disposition: &str| {
            format!(
                "Content-Type: application/pdf\r\nContent-Disposition: attachment;{disposition}\r\n\
                 Content-Transfer-Encoding: base64\r\n"
            )
        };
        assert_eq!(head("invoice.pdf"), with(" filename=\"invoice.pdf\""));
        assert_eq!(head("a \"b\".pdf"), with(" filename=\"a \\\"b\\\".pdf\""));
        // RFC 2231 §3 and §4.
        assert_eq!(head("청구.pdf"), with("\r\n filename*0*=utf-8''%EC%B2%AD%EA%B5%AC.pdf"));
        let long = head(&format!("{}.pdf", "x".repeat(100)));
        assert!(long.contains(" filename*0=\"xx") && long.contains(" filename*1=\"xx"), "{long}");
    }

    #[test]
    fn a_file_is_base64_whatever_it_holds_and_comes_after_the_text() {
        // "a\n.\r\nb": a dot on a line of its own ends an e-mail.
        let (text, _) = attached("a.txt", "text/plain", "YQouDQpi").unwrap();
        assert!(text.contains("\r\n\r\nYQouDQpi\r\n"), "{text}");
        assert!(text.contains("multipart/mixed") && !text.contains("multipart/alternative"), "{text}");
        assert!(text.find("\r\n\r\nt\r\n") < text.find("YQouDQpi"), "{text}");
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
    }

    #[test]
    fn no_attachment_smuggles_a_header_in() {
        for (name, kind, content) in [
            ("a\r\nBcc: b@example.org", "text/plain", "AAAA"),
            ("a\n.pdf", "text/plain", "AAAA"),
            ("a.pdf", "text/plain\r\nBcc: b@example.org", "AAAA"),
            ("a.pdf", "text/plain", "AAAA\r\n.\r\nMAIL FROM:<b@example.org>"),
        ] {
            assert_eq!(attached(name, kind, content), Err(ComposeError::Attachment), "{name:?} {kind:?}");
        }
    }

    proptest! {
        #[test]
        fn what_a_gateway_accepts_can_be_written(
            name in "\\PC{1,60}|[a-z\"=?_ ;%*']{1,200}",
            kind in "[a-zA-Z0-9][a-zA-Z0-9!#$&^_.+-]{0,126}/[a-zA-Z0-9][a-zA-Z0-9!#$&^_.+-]{0,126}",
        ) {
            let file = Attachment { filename: name, content_type: kind, content: "AAAA".to_owned() };
            let attachments = Attachments::from_iter([file]);
            prop_assume!(attachments.check().is_empty());
            let text = composed_with(&attachments, FROM, "a@example.org", &rendered("s", "t", None)).unwrap();
            prop_assert!(text.is_ascii());
            prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
            prop_assert!(text.lines().all(|line| line.len() <= 998), "RFC 5322 §2.1.1");
            // From its boundary on, an attachment has three headers and what continues them.
            let part = text.split("\r\n--").nth(2).unwrap();
            let head = part.split_once("\r\n\r\n").unwrap().0;
            let own = head.lines().skip(1).filter(|line| !line.starts_with([' ', '\t']));
            let names: Vec<_> = own.map(|line| line.split_once(':').unwrap().0.to_owned()).collect();
            prop_assert_eq!(names, ["Content-Type", "Content-Disposition", "Content-Transfer-Encoding"]);
        }
    }
}
