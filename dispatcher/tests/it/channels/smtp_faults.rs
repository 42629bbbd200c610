//! E-mail when the server falls silent, hangs up or talks nonsense, at each step.

use std::time::Duration;

use peal_common::outcome::Outcome;
use peal_common::settings::SmtpSettings;
use peal_dispatcher::channels::email::Smtp;
use peal_dispatcher::channels::email::smtp::Options;
use peal_dispatcher::recording::{self, Command, Reply};
use tokio::time::{Instant, timeout};

use super::fixture::{SHORT, SOON, address_dead, ambiguous, clock, permanent, retry};
use super::smtp::{settings, smtp, to};

/// A sender that waits a short time for each command, and twice that for all of them.
fn hasty(server: &recording::Smtp) -> Smtp {
    hasty_with(&settings(server))
}

fn hasty_with(settings: &SmtpSettings) -> Smtp {
    let mut options = Options::from_settings(settings).unwrap();
    options.command_timeout = SHORT;
    options.timeout = SHORT * 2;
    Smtp::new(options, clock())
}

fn accepted(server: &recording::Smtp) -> usize {
    server.mails().iter().filter(|mail| mail.accepted).count()
}

#[tokio::test]
async fn silence_at_each_command_is_a_retry_and_after_the_text_ambiguous() {
    let steps = [
        (Command::Greeting, retry("timeout")),
        (Command::Ehlo, retry("timeout")),
        (Command::Mail, retry("timeout")),
        (Command::Rcpt, retry("timeout")),
        (Command::Data, retry("timeout")),
        (Command::Text, ambiguous("no_answer_after_data")),
    ];
    for (command, expected) in steps {
        let server = recording::Smtp::start().await.unwrap();
        server.reply_next(command, Reply::Stall);
        let smtp = hasty(&server);
        let started = Instant::now();
        assert_eq!(smtp.send(&to("kim@example.org").message()).await, expected, "{command:?}");
        assert!((SHORT..SOON).contains(&started.elapsed()));
        // The next one has a connection of its own.
        assert!(
            matches!(smtp.send(&to("lee@example.org").message()).await, Outcome::Sent { .. }),
            "{command:?}"
        );
        assert_eq!((server.connections(), accepted(&server)), (2, 1));
    }
    let server = recording::Smtp::start().await.unwrap();
    server.require_login("peal", "right");
    server.reply_next(Command::Auth, Reply::Stall);
    let login = SmtpSettings {
        user: Some("peal".to_owned()),
        password: Some("right".to_owned().into()),
        ..settings(&server)
    };
    assert_eq!(hasty_with(&login).send(&to("kim@example.org").message()).await, retry("timeout"));
}

#[tokio::test]
async fn a_lost_connection_is_a_retry_and_after_the_text_ambiguous() {
    let steps = [
        (Command::Greeting, retry("connection_lost")),
        (Command::Ehlo, retry("connection_lost")),
        (Command::Mail, retry("connection_lost")),
        (Command::Rcpt, retry("connection_lost")),
        (Command::Data, retry("connection_lost")),
        (Command::Text, ambiguous("no_answer_after_data")),
    ];
    for (command, expected) in steps {
        let server = recording::Smtp::start().await.unwrap();
        server.reply_next(command, Reply::Close);
        assert_eq!(
            smtp(&settings(&server)).send(&to("kim@example.org").message()).await,
            expected,
            "{command:?}"
        );
        assert_eq!(accepted(&server), 0);
    }
}

#[tokio::test]
async fn a_server_that_stops_reading_the_text_can_not_have_taken_it() {
    let server = recording::Smtp::start().await.unwrap();
    server.reply_next(Command::Data, Reply::SayAndStall("354 go ahead".to_owned()));
    let mut fixture = to("kim@example.org");
    // More than the sockets' buffers hold.
    fixture.rendered.text = "A line of text that fills the buffers.\n".repeat(1_000_000);
    let mut options = Options::from_settings(&settings(&server)).unwrap();
    options.timeout = Duration::from_secs(4);
    let outcome = Smtp::new(options, clock()).send(&fixture.message()).await;
    assert_eq!(outcome, retry("timeout"));
}

#[tokio::test]
async fn an_email_given_up_after_its_text_does_not_lend_its_answer_to_the_next() {
    let server = recording::Smtp::start().await.unwrap();
    let smtp = smtp(&settings(&server));
    // A connection that is known to be good, so that both e-mails would use it.
    assert!(matches!(smtp.send(&to("kim@example.org").message()).await, Outcome::Sent { .. }));
    server.reply_next(Command::Text, Reply::Stall);
    let fixture = to("lee@example.org");
    let message = fixture.message();
    tokio::select! {
        outcome = smtp.send(&message) => panic!("the server has not answered: {outcome:?}"),
        texts = server.wait_for(2, SOON) => { texts.unwrap(); }
    }
    server.reply_next(Command::Text, Reply::say("550 5.6.0 refused"));
    assert_eq!(smtp.send(&to("park@example.org").message()).await, permanent("smtp_550_5.6.0"));
    assert_eq!(accepted(&server), 1);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_nobodys_answer() {
    for command in [Command::Rcpt, Command::Text] {
        let server = recording::Smtp::start().await.unwrap();
        // It arrives while the next e-mail is being sent.
        server.reply_next(command, Reply::SayAfter(SHORT * 5 / 2, "250 2.0.0 finally".to_owned()));
        let smtp = hasty(&server);
        assert!(!matches!(smtp.send(&to("kim@example.org").message()).await, Outcome::Sent { .. }));
        server.reply_to(Command::Rcpt, "gone@", Reply::say("550 5.1.1 no such user"));
        assert_eq!(smtp.send(&to("gone@example.org").message()).await, address_dead("smtp_550_5.1.1"));
        assert_eq!(server.connections(), 2, "{command:?}");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_replaced_unnoticed() {
    for goodbye in [Reply::Close, Reply::SayAndClose("421 4.4.2 idle for too long".to_owned())] {
        let server = recording::Smtp::start().await.unwrap();
        let smtp = smtp(&settings(&server));
        assert!(matches!(smtp.send(&to("kim@example.org").message()).await, Outcome::Sent { .. }));
        server.reply_next(Command::Mail, goodbye);
        assert!(matches!(smtp.send(&to("lee@example.org").message()).await, Outcome::Sent { .. }));
        assert_eq!((server.connections(), accepted(&server)), (2, 2));
    }
}

#[tokio::test]
async fn a_server_that_talks_without_end_is_left() {
    for command in [Command::Greeting, Command::Rcpt] {
        let server = recording::Smtp::start().await.unwrap();
        server.reply_next(command, Reply::Endless);
        let smtp = smtp(&settings(&server));
        let fixture = to("kim@example.org");
        // Long before its time limit: nobody should keep such a line in memory.
        assert_eq!(smtp.send(&fixture.message()).await, retry("connection_lost"), "{command:?}");
    }
}

#[tokio::test]
async fn nobody_listening_is_a_failure_to_connect() {
    let server = recording::Smtp::start().await.unwrap();
    let smtp = smtp(&settings(&server));
    drop(server);
    let fixture = to("kim@example.org");
    // The port closes a moment after its server is gone.
    let closed = async {
        while smtp.send(&fixture.message()).await != retry("connect_failed") {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, closed).await.expect("the port is closed");
}
