//! E-mail as Python reads it: aiosmtpd receives it and the `email` package of the standard library takes it apart.

use std::path::PathBuf;

use peal_common::channel::Channel;
use peal_common::outcome::Outcome;
use peal_common::settings::{SmtpSettings, SmtpTls};
use peal_dispatcher::channels::Message;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fixture::{Fixture, unavailable};
use super::peers::Peer;
use super::smtp::{sent, settings_at, smtp, to};

const SCRIPT: &str = "mail_reader.py";
/// Longer than a line of a header, in which it has to be encoded.
const SUBJECT: &str =
    "주문 1042가 발송되었습니다 🎉 – votre commande est déjà partie, à bientôt (100 % sûr?)";
/// Each line is one that something on the way might take for something else.
const TEXT: &str = "안녕하세요, déjà vu.\n.\n..\nFrom here on\n=3D =\n  indented \n\tend";

fn settings(peer: &Peer) -> SmtpSettings {
    SmtpSettings {
        from: "\"가게 Shop, Inc.\" <no-reply@example.com>".to_owned(),
        hello_name: Some("mail.example.com".to_owned()),
        ..settings_at(peer.port)
    }
}

/// What the reader understood of the next e-mail; whatever it was, nothing in it may be wrong.
async fn read(peer: &mut Peer) -> Value {
    let mail: Value = serde_json::from_str(&peer.line().await).unwrap();
    assert_eq!(mail["defects"], json!([]), "{mail}");
    assert_eq!((&mail["ascii"], &mail["bare"]), (&json!(true), &json!(false)), "{mail}");
    // RFC 5322 §2.1.1
    assert!(mail["longest"].as_u64().unwrap() <= 998, "{mail}");
    mail
}

fn header<'a>(mail: &'a Value, name: &str) -> Option<&'a str> {
    let mut values = mail["headers"].as_array().unwrap().iter().filter(|header| header[0] == name);
    let value = values.next()?[1].as_str().unwrap();
    assert_eq!(values.next(), None, "{name} is there twice");
    Some(value)
}

#[tokio::test]
async fn headers_and_both_texts_are_read_as_they_were_written() {
    let Some(mut peer) = Peer::start(SCRIPT, &[]).await else { return };
    let mut fixture = to("kim+orders@example.org");
    fixture.rendered.subject = Some(SUBJECT.to_owned());
    fixture.rendered.text = TEXT.to_owned();
    // One line, longer than a line of an e-mail may be.
    let html = format!("<p>{}</p>", "주문 <b>1042</b> =3D ".repeat(60));
    fixture.rendered.html = Some(html.clone());
    assert_eq!(smtp(&settings(&peer)).send(&fixture.message()).await, sent(&fixture));

    let mail = read(&mut peer).await;
    assert_eq!(mail["hello"], "mail.example.com");
    assert_eq!(
        (&mail["from"], &mail["to"]),
        (&json!("no-reply@example.com"), &json!(["kim+orders@example.org"]))
    );
    assert_eq!(
        mail["addresses"],
        json!({"from": [["가게 Shop, Inc.", "no-reply@example.com"]], "to": [["", "kim+orders@example.org"]]})
    );
    assert_eq!(header(&mail, "Subject"), Some(SUBJECT));
    assert_eq!(mail["date"], "2026-11-22T12:00:00+00:00");
    let message_id = format!("<{}@example.com>", fixture.delivery);
    assert_eq!(header(&mail, "Message-ID"), Some(message_id.as_str()));
    assert_eq!(header(&mail, "MIME-Version"), Some("1.0"));
    assert_eq!(header(&mail, "Auto-Submitted"), Some("auto-generated"));
    assert_eq!(mail["type"], "multipart/alternative");
    assert_eq!(mail["parts"], json!([["text/plain", "utf-8", TEXT], ["text/html", "utf-8", html]]));
    // The last alternative is the best (RFC 2046 §5.1.4).
    assert_eq!(mail["preferred"], "text/html");
    assert_eq!(peer.end().await, Vec::<String>::new());
}

#[tokio::test]
async fn one_text_alone_is_no_alternative() {
    let Some(mut peer) = Peer::start(SCRIPT, &[]).await else { return };
    let smtp = smtp(&settings(&peer));
    let mut fixture = to("kim@example.org");
    for (text, html, expected) in [
        ("Shipped.", None, ["text/plain", "utf-8", "Shipped."]),
        ("", Some("<p>Shipped.</p>"), ["text/html", "utf-8", "<p>Shipped.</p>"]),
        ("", None, ["text/plain", "utf-8", ""]),
    ] {
        fixture.rendered.text = text.to_owned();
        fixture.rendered.html = html.map(str::to_owned);
        assert_eq!(smtp.send(&fixture.message()).await, sent(&fixture));
        let mail = read(&mut peer).await;
        assert_eq!(mail["type"], expected[0]);
        let [part] = mail["parts"].as_array().unwrap().as_slice() else { panic!("{mail}") };
        assert_eq!(part[2].as_str().unwrap().trim_end_matches('\n'), expected[2], "{mail}");
        assert_eq!((&part[0], &part[1]), (&json!(expected[0]), &json!(expected[1])));
    }
    assert_eq!(peer.end().await, Vec::<String>::new());
}

#[tokio::test]
async fn another_attempt_is_the_same_email() {
    let Some(mut peer) = Peer::start(SCRIPT, &[]).await else { return };
    let fixture = to("kim@example.org");
    let other = Fixture::to(Channel::Email, "kim@example.org", 2);
    let again = Message { attempt: 2, ..fixture.message() };
    for message in [&fixture.message(), &again, &other.message()] {
        // A dispatcher of its own for each.
        assert!(matches!(smtp(&settings(&peer)).send(message).await, Outcome::Sent { .. }));
    }
    let [first, second, third] = [read(&mut peer).await, read(&mut peer).await, read(&mut peer).await];
    assert_eq!(header(&first, "Message-ID"), header(&second, "Message-ID"));
    assert_eq!(first["parts"], second["parts"]);
    assert_ne!(header(&first, "Message-ID"), header(&third, "Message-ID"));
    assert_eq!(peer.end().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_link_to_unsubscribe_is_read_whole() {
    let Some(mut peer) = Peer::start(SCRIPT, &[]).await else { return };
    let smtp = smtp(&settings(&peer));
    let link = format!("https://peal.example.com/u/{}?a=1&b=%20", "x".repeat(640));
    let mut fixture = Fixture { unsubscribe: Some(link.clone()), ..to("kim@example.org") };
    assert_eq!(smtp.send(&fixture.message()).await, sent(&fixture));
    let mail = read(&mut peer).await;
    assert_eq!(header(&mail, "List-Unsubscribe"), Some(format!("<{link}>").as_str()));
    assert_eq!(header(&mail, "List-Unsubscribe-Post"), Some("List-Unsubscribe=One-Click"));

    fixture.unsubscribe = None;
    assert_eq!(smtp.send(&fixture.message()).await, sent(&fixture));
    let mail = read(&mut peer).await;
    assert_eq!((header(&mail, "List-Unsubscribe"), header(&mail, "List-Unsubscribe-Post")), (None, None));
    assert_eq!(peer.end().await, Vec::<String>::new());
}

/// A reader that wants TLS and a name, and what it takes to be let in.
async fn guarded(protection: &str) -> Option<(Peer, SmtpSettings, TempDir)> {
    let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| folder.path().join(name));
    std::fs::write(&certificate, issued.cert.pem()).unwrap();
    std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let (certificate_text, key) = (text(&certificate), text(&key));
    let peer = Peer::start(SCRIPT, &[protection, &certificate_text, &key, "peal", "right 비밀"]).await?;
    let settings = SmtpSettings {
        tls: if protection == "implicit" { SmtpTls::Implicit } else { SmtpTls::Starttls },
        tls_ca_file: Some(certificate),
        user: Some("peal".to_owned()),
        password: Some("right 비밀".to_owned().into()),
        ..settings(&peer)
    };
    Some((peer, settings, folder))
}

#[tokio::test]
async fn nothing_is_said_before_tls_and_signing_in() {
    for protection in ["starttls", "implicit"] {
        let Some((mut peer, right, _folder)) = guarded(protection).await else { return };
        let fixture = to("kim@example.org");
        let wrong = SmtpSettings { password: Some("wrong".to_owned().into()), ..right.clone() };
        let nameless = SmtpSettings { user: None, password: None, ..right.clone() };
        let distrusting = SmtpSettings { tls_ca_file: None, ..right.clone() };
        for (settings, why) in [
            (wrong, "authentication_failed"),
            (nameless, "authentication_failed"),
            (distrusting, "tls_failed"),
        ] {
            let outcome = smtp(&settings).send(&fixture.message()).await;
            assert_eq!(outcome, unavailable(why), "{protection}");
        }
        if protection == "starttls" {
            let plain = SmtpSettings { tls: SmtpTls::None, user: None, password: None, ..right.clone() };
            let outcome = smtp(&plain).send(&fixture.message()).await;
            assert_eq!(outcome, unavailable("authentication_failed"), "530 before STARTTLS");
        }

        let smtp = smtp(&right);
        for _ in 0..3 {
            assert_eq!(smtp.send(&fixture.message()).await, sent(&fixture), "{protection}");
            let mail = read(&mut peer).await;
            assert_eq!(
                (&mail["encrypted"], &mail["authenticated"]),
                (&json!(protection == "starttls"), &json!(true))
            );
        }
        assert_eq!(peer.end().await, Vec::<String>::new(), "{protection}");
    }
}
