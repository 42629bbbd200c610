//! E-mail: what is sent, over which connection, and what refusals mean.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use peal_common::channel::Channel;
use peal_common::outcome::Outcome;
use peal_common::settings::{SmtpSettings, SmtpTls};
use peal_dispatcher::channels::Probe;
use peal_dispatcher::channels::email::Smtp;
use peal_dispatcher::channels::email::smtp::Options;
use peal_dispatcher::recording::{self, Command, Reply, SmtpTlsMode};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::fixture::{Fixture, SOON, address_dead, attachments, clock, fails, permanent, retry, unavailable};

pub fn settings(server: &recording::Smtp) -> SmtpSettings {
    settings_at(server.address().port())
}

/// Settings for a server on the loopback.
pub fn settings_at(port: u16) -> SmtpSettings {
    SmtpSettings {
        host: "127.0.0.1".to_owned(),
        port,
        tls: SmtpTls::None,
        user: None,
        password: None,
        password_file: None,
        from: "\"가게 Shop\" <no-reply@example.com>".to_owned(),
        hello_name: None,
        tls_ca_file: None,
        timeout_seconds: 10,
        rate_per_second: None,
        max_connections: 2,
    }
}

pub fn smtp(settings: &SmtpSettings) -> Smtp {
    Smtp::new(Options::from_settings(settings).unwrap(), clock())
}

pub fn to(address: &str) -> Fixture {
    Fixture::to(Channel::Email, address, 1)
}

pub fn sent(fixture: &Fixture) -> Outcome {
    Outcome::Sent { provider_id: Some(format!("<{}@example.com>", fixture.delivery)) }
}

#[tokio::test]
async fn an_email_arrives_as_it_was_written() {
    let server = recording::Smtp::start().await.unwrap();
    let smtp = smtp(&settings(&server));
    let mut fixture = to("kim@example.org");
    fixture.rendered.html = Some("<p>Order 1042</p>".to_owned());
    fixture.rendered.text = ".\nA line\n..dots\n.\r\n".to_owned();
    assert_eq!(smtp.send(&fixture.message()).await, sent(&fixture));
    let [mail] = server.mails().try_into().unwrap();
    assert!(mail.accepted);
    assert_eq!(
        (mail.from.as_str(), mail.to.as_slice()),
        ("no-reply@example.com", ["kim@example.org".to_owned()].as_slice())
    );
    for part in [
        format!("Message-ID: <{}@example.com>\r\n", fixture.delivery).as_str(),
        "To: kim@example.org\r\n",
        "Subject: Your order is on its way\r\n",
        "Date: Sun, 22 Nov 2026 12:00:00 +0000\r\n",
        "\r\n.\r\nA line\r\n..dots\r\n.\r\n",
        "<p>Order 1042</p>",
    ] {
        assert!(mail.text.contains(part), "{part:?} is missing in {}", mail.text);
    }
    assert_eq!(server.commands()[0], "EHLO example.com");
}

/// The parts between the lines with `boundary`, each as its head and its text.
fn parts(text: &str) -> Vec<(&str, &str)> {
    let (_, boundary) = text.split_once("boundary=\"").unwrap();
    let boundary = format!("--{}", boundary.split_once('"').unwrap().0);
    let parts = text.split(boundary.as_str()).skip(1).filter(|part| part.starts_with("\r\n"));
    parts.filter_map(|part| part.split_once("\r\n\r\n")).collect()
}

#[tokio::test]
async fn attachments_arrive_as_they_were_handed_in() {
    let server = recording::Smtp::start().await.unwrap();
    let smtp = smtp(&settings(&server));
    let mut fixture = Fixture { attachments: attachments(), ..to("kim@example.org") };
    fixture.rendered.html = Some("<p>Order 1042</p>".to_owned());
    assert_eq!(smtp.send(&fixture.message()).await, sent(&fixture));
    fixture.rendered.html = None;
    assert_eq!(smtp.send(&fixture.message()).await, sent(&fixture));

    let [both, plain] = server.mails().try_into().unwrap();
    for (mail, said) in [(both, "multipart/alternative"), (plain, "text/plain")] {
        assert!(mail.text.contains("\r\nContent-Type: multipart/mixed;"), "{}", mail.text);
        let [text, page, table] = parts(&mail.text).try_into().unwrap();
        assert!(text.0.contains(said), "{}", text.0);
        for (part, name, kind, file) in [
            (page, "filename=\"invoice.pdf\"", "application/pdf", &fixture.attachments[0]),
            (
                table,
                "filename*0*=utf-8''%EC%B2%AD%EA%B5%AC%EC%84%9C.csv",
                "text/csv",
                &fixture.attachments[1],
            ),
        ] {
            assert!(
                part.0.contains("Content-Disposition: attachment;") && part.0.contains(name),
                "{}",
                part.0
            );
            assert!(part.0.contains(&format!("Content-Type: {kind}\r\n")), "{}", part.0);
            assert!(part.0.contains("Content-Transfer-Encoding: base64"), "{}", part.0);
            let lines = part.1.trim_end();
            assert!(lines.lines().all(|line| line.len() <= 76), "RFC 2045 §6.8");
            assert_eq!(STANDARD.decode(lines.replace("\r\n", "")).ok(), file.decode());
        }
    }
}

#[tokio::test]
async fn a_link_to_unsubscribe_is_a_header_in_one_line() {
    let server = recording::Smtp::start().await.unwrap();
    let smtp = smtp(&settings(&server));
    let link = format!("https://{}.example.com/u/{}", "peal".repeat(70), "x".repeat(640));
    let mut fixture = Fixture { unsubscribe: Some(link.clone()), ..to("kim@example.org") };
    assert_eq!(smtp.send(&fixture.message()).await, sent(&fixture));
    let text = &server.mails()[0].text;
    let header = format!("\r\nList-Unsubscribe: <{link}>\r\n");
    assert!(text.contains(&header), "{text}");
    assert!(text.contains("\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"), "{text}");
    assert!(text.lines().all(|line| line.len() <= 998), "RFC 5322 §2.1.1");

    for bad in ["https://x/>\r\nBcc: b@example.org", "https://x/\0", "https://x/ä", "https://x/>"] {
        fixture.unsubscribe = Some(bad.to_owned());
        assert_eq!(smtp.send(&fixture.message()).await, permanent("invalid_header"), "{bad:?}");
    }
    fixture.unsubscribe = None;
    assert_eq!(smtp.send(&fixture.message()).await, sent(&fixture));
    assert_eq!(server.mails().len(), 2);
    assert!(!server.mails()[1].text.contains("List-Unsubscribe"));
}

#[tokio::test]
async fn emails_follow_each_other_on_one_connection_and_never_exceed_the_limit() {
    let server = recording::Smtp::start().await.unwrap();
    let smtp = smtp(&settings(&server));
    for _ in 0..5 {
        let fixture = to("kim@example.org");
        assert_eq!(smtp.send(&fixture.message()).await, sent(&fixture));
    }
    assert_eq!(server.connections(), 1);
    let fixtures: Vec<Fixture> = (0..50).map(|n| to(&format!("u{n}@example.org"))).collect();
    let sends = fixtures.iter().map(|fixture| async { smtp.send(&fixture.message()).await });
    for (outcome, fixture) in futures_util::future::join_all(sends).await.into_iter().zip(&fixtures) {
        assert_eq!(outcome, sent(fixture));
    }
    assert_eq!(server.mails().len(), 55);
    assert!(server.connections() <= 2, "{}", server.connections());
    for mail in server.mails() {
        assert_eq!(mail.to.len(), 1);
    }
}

#[tokio::test]
async fn a_connection_is_replaced_after_a_hundred_emails() {
    let server = recording::Smtp::start().await.unwrap();
    let smtp = smtp(&settings(&server));
    let fixture = to("kim@example.org");
    for _ in 0..101 {
        assert_eq!(smtp.send(&fixture.message()).await, sent(&fixture));
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_connection_is_not_used_again_after_half_a_minute() {
    let server = recording::Smtp::start().await.unwrap();
    let smtp = smtp(&settings(&server));
    let fixture = to("kim@example.org");
    for (idle_seconds, connections) in [(0, 1), (25, 1), (31, 2)] {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(idle_seconds)).await;
        tokio::time::resume();
        assert_eq!(smtp.send(&fixture.message()).await, sent(&fixture));
        assert_eq!(server.connections(), connections, "after {idle_seconds} s");
    }
}

#[tokio::test]
async fn refusals_are_told_apart_by_where_they_come() {
    let cases = [
        (Command::Rcpt, "550 5.1.1 no such user", address_dead("smtp_550_5.1.1")),
        (Command::Rcpt, "550-5.1.1 no such\r\n550 5.1.1 user", address_dead("smtp_550_5.1.1")),
        (Command::Rcpt, "550 5.7.1 not from you", unavailable("smtp_550_5.7.1")),
        (Command::Rcpt, "550 mailbox unavailable", permanent("smtp_550")),
        (Command::Rcpt, "450 4.2.0 greylisted", retry("smtp_450_4.2.0")),
        (Command::Rcpt, "252 maybe", retry("unexpected_answer")),
        (Command::Data, "554 5.5.1 no valid recipients", permanent("smtp_554_5.5.1")),
        (Command::Data, "250 what?", retry("unexpected_answer")),
        (Command::Data, "421 4.3.2 shutting down", retry("smtp_421_4.3.2")),
        (Command::Text, "550 5.7.1 spam", unavailable("smtp_550_5.7.1")),
        (Command::Text, "552 5.3.4 too large", permanent("smtp_552_5.3.4")),
        (Command::Text, "451 4.3.0 later", retry("smtp_451_4.3.0")),
        (Command::Text, "454 Throttling failure: Maximum sending rate exceeded.", retry("smtp_454")),
        (Command::Mail, "550 5.7.1 not your address", unavailable("sender_refused")),
        (Command::Mail, "530 5.7.0 authenticate", unavailable("authentication_failed")),
        (Command::Ehlo, "550 5.7.1 go away", unavailable("server_refused")),
        (Command::Greeting, "554 no service", unavailable("server_refused")),
        (Command::Greeting, "421 busy", retry("smtp_421")),
        (Command::Greeting, "hello", retry("unexpected_answer")),
    ];
    for (command, reply, expected) in cases {
        let server = recording::Smtp::start().await.unwrap();
        server.reply_next(command, Reply::say(reply));
        let smtp = smtp(&settings(&server));
        let fixture = to("kim@example.org");
        assert_eq!(smtp.send(&fixture.message()).await, expected, "{command:?} {reply}");
        // Whatever it was, the next e-mail is not affected.
        assert_eq!(smtp.send(&fixture.message()).await, sent(&fixture), "after {command:?} {reply}");
        assert_eq!(server.mails().iter().filter(|mail| mail.accepted).count(), 1);
    }
}

#[tokio::test]
async fn a_refused_recipient_does_not_cost_the_connection() {
    let server = recording::Smtp::start().await.unwrap();
    server.reply_to(Command::Rcpt, "gone@", Reply::say("550 5.1.1 no such user"));
    let smtp = smtp(&settings(&server));
    assert_eq!(smtp.send(&to("gone@example.org").message()).await, address_dead("smtp_550_5.1.1"));
    assert_eq!(smtp.send(&to("gone@example.org").message()).await, address_dead("smtp_550_5.1.1"));
    let fixture = to("kim@example.org");
    assert_eq!(smtp.send(&fixture.message()).await, sent(&fixture));
    assert_eq!(server.connections(), 1);
    assert_eq!(server.commands().iter().filter(|command| *command == "RSET").count(), 2);
    assert_eq!(server.mails()[0].to, ["kim@example.org"]);
}

#[tokio::test]
async fn whom_a_policy_is_against_waits_alone_and_is_given_up_when_the_others_are_served() {
    let server = recording::Smtp::start().await.unwrap();
    server.reply_to(Command::Rcpt, "partner@", Reply::say("550 5.7.1 not from you"));
    let smtp = smtp(&settings(&server));
    let (other, partner) = (to("kim@example.org"), to("partner@example.net"));
    // It has not taken any yet: the account may be what it is against.
    assert_eq!(smtp.send(&partner.message()).await, unavailable("smtp_550_5.7.1"));
    for wait in [60, 120, 240, 480] {
        assert_eq!(smtp.send(&other.message()).await, sent(&other));
        let waits = Some(Duration::from_secs(wait));
        let held_back = Outcome::HeldBack { reason: "smtp_550_5.7.1".to_owned(), after: waits };
        assert_eq!(smtp.send(&partner.message()).await, held_back);
    }
    assert_eq!(smtp.send(&other.message()).await, sent(&other));
    assert_eq!(smtp.send(&partner.message()).await, permanent("smtp_550_5.7.1"));

    // A relay that has us no longer.
    server.reply(Command::Rcpt, Reply::say("554 5.7.1 relay access denied"));
    assert!(matches!(smtp.send(&other.message()).await, Outcome::HeldBack { .. }));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    for _ in 0..6 {
        assert_eq!(smtp.send(&other.message()).await, unavailable("smtp_554_5.7.1"));
    }
    server.as_usual(Command::Rcpt);
    assert_eq!(smtp.send(&other.message()).await, sent(&other));
}

#[tokio::test]
async fn control_characters_never_reach_the_server() {
    let server = recording::Smtp::start().await.unwrap();
    let smtp = smtp(&settings(&server));
    let mut subject = to("kim@example.org");
    subject.rendered.subject = Some("Hello\r\nBcc: everybody@example.org".to_owned());
    assert_eq!(smtp.send(&subject.message()).await, permanent("invalid_header"));
    subject.rendered.subject = Some("Hello\0".to_owned());
    assert_eq!(smtp.send(&subject.message()).await, permanent("invalid_header"));
    for address in ["kim@example.org\r\nRCPT TO:<b@example.org>", "kim\0@example.org", "kim@example.org\n"] {
        assert_eq!(smtp.send(&to(address).message()).await, permanent("invalid_header"), "{address:?}");
    }
    for address in ["kim", "kim@example.org>", "Kim <kim@example.org>", "김@example.org"] {
        assert_eq!(smtp.send(&to(address).message()).await, permanent("invalid_address"), "{address:?}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn signing_in() {
    let server = recording::Smtp::start().await.unwrap();
    server.require_login("peal", "right");
    let with = |password: Option<&str>| SmtpSettings {
        user: password.map(|_| "peal".to_owned()),
        password: password.map(|password| password.to_owned().into()),
        ..settings(&server)
    };
    let fixture = to("kim@example.org");
    let send = async |settings: SmtpSettings| smtp(&settings).send(&fixture.message()).await;
    assert_eq!(send(with(Some("right"))).await, sent(&fixture));
    assert_eq!(send(with(Some("wrong"))).await, unavailable("authentication_failed"));
    assert_eq!(send(with(None)).await, unavailable("authentication_failed"));
    server.reply_next(Command::Auth, Reply::say("454 4.7.0 try later"));
    assert_eq!(send(with(Some("right"))).await, retry("smtp_454_4.7.0"));
    // A server that knows LOGIN alone.
    server.reply_next(Command::Ehlo, Reply::say("250-recorder\r\n250 AUTH LOGIN"));
    assert_eq!(send(with(Some("right"))).await, sent(&fixture));
    server.reply_next(Command::Ehlo, Reply::say("250 recorder"));
    assert_eq!(send(with(Some("right"))).await, unavailable("authentication_not_offered"));
}

#[tokio::test]
async fn tls_is_used_where_it_is_demanded() {
    let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der()).into();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let config = std::sync::Arc::new(config);
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, issued.cert.pem()).unwrap();

    let fixture = to("kim@example.org");
    for (mode, tls) in
        [(SmtpTlsMode::Starttls, SmtpTls::Starttls), (SmtpTlsMode::Implicit, SmtpTls::Implicit)]
    {
        let server = recording::Smtp::start_tls(mode, config.clone()).await.unwrap();
        server.require_login("peal", "right");
        let trusting = SmtpSettings {
            tls,
            tls_ca_file: Some(ca.clone()),
            user: Some("peal".to_owned()),
            password: Some("right".to_owned().into()),
            ..settings(&server)
        };
        let smtp_trusting = smtp(&trusting);
        for _ in 0..3 {
            assert_eq!(smtp_trusting.send(&fixture.message()).await, sent(&fixture), "{tls:?}");
        }
        assert_eq!((server.mails().len(), server.connections()), (3, 1));
        let distrusting = SmtpSettings { tls_ca_file: None, ..trusting };
        assert_eq!(smtp(&distrusting).send(&fixture.message()).await, unavailable("tls_failed"), "{tls:?}");
        assert_eq!(server.mails().len(), 3);
    }

    // A server that does not offer what is demanded gets nothing, not even the name of a recipient.
    let plain = recording::Smtp::start().await.unwrap();
    let demanding = SmtpSettings { tls: SmtpTls::Starttls, ..settings(&plain) };
    assert_eq!(smtp(&demanding).send(&fixture.message()).await, unavailable("starttls_not_offered"));
    assert_eq!(plain.commands().iter().filter(|line| line.starts_with("MAIL")).count(), 0);
}

#[tokio::test]
async fn waiting_for_a_connection_is_bounded_too() {
    let server = recording::Smtp::start().await.unwrap();
    let mut options =
        Options::from_settings(&SmtpSettings { max_connections: 1, ..settings(&server) }).unwrap();
    options.timeout = Duration::from_millis(600);
    let smtp = Smtp::new(options, clock());
    server.reply(Command::Text, Reply::Stall);
    let (first, second) = (to("a@example.org"), to("b@example.org"));
    let (first_message, second_message) = (first.message(), second.message());
    let (first, second) = tokio::join!(smtp.send(&first_message), smtp.send(&second_message));
    assert_eq!(first, super::fixture::ambiguous("no_answer_after_data"));
    assert_eq!(second, Outcome::HeldBack { reason: "no_free_connection".to_owned(), after: None });
    assert_eq!(server.wait_for(1, SOON).await.unwrap().len(), 1);
}

#[tokio::test]
async fn asked_whether_it_works_it_signs_in_and_sends_nothing() {
    let server = recording::Smtp::start().await.unwrap();
    let smtp = smtp(&settings(&server));
    assert_eq!(smtp.probe().await, Probe::Works);
    assert_eq!(server.commands(), ["EHLO example.com"]);
    server.require_login("peal", "right");
    let with = |password: &str| SmtpSettings {
        user: Some("peal".to_owned()),
        password: Some(password.to_owned().into()),
        ..settings(&server)
    };
    assert_eq!(self::smtp(&with("right")).probe().await, Probe::Works);
    assert_eq!(self::smtp(&with("wrong")).probe().await, fails("authentication_failed"));
    assert_eq!(server.mails().len(), 0);
}
