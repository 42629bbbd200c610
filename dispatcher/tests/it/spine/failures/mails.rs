//! SendGrid, Mailchimp Transactional, and mail servers.

use peal_dispatcher::recording::{Answer, Command, Mandrill, Reply, Sendgrid};

use super::{Dead, FullForDays, Later, Meaning, Out, Repeated, Row, Said, Wrong, after, answers, status};

pub(super) fn sendgrid() -> Vec<Row> {
    answers(
        "sendgrid",
        [
            (status(400), "http_400", Wrong),
            (Sendgrid::error(400, Some("personalizations.0.to.0.email")), "invalid_address", Wrong),
            (Sendgrid::error(400, Some("from.email")), "invalid_sender", Wrong),
            (status(413), "payload_too_large", Wrong),
            (status(429), "http_429", Later(0)),
            (after(status(429), "2"), "http_429", Later(2)),
            (after(status(429), "300"), "http_429", Later(300)),
            (status(500), "http_500", Later(0)),
            (status(502), "http_502", Later(0)),
            (after(status(503), "2"), "http_503", Later(2)),
            (Sendgrid::error(401, None), "key_refused", Out(0)),
            (Sendgrid::error(403, None), "forbidden", Out(0)),
            (after(Sendgrid::error(403, None), "7"), "forbidden", Out(7)),
            (status(200), "unreadable_answer", Repeated),
            (Answer::reset(), "no_answer_after_send", Repeated),
        ],
    )
}

pub(super) fn mandrill() -> Vec<Row> {
    let says = |status, name| Mandrill::error(status, -1, name);
    answers(
        "mandrill",
        [
            (Mandrill::rejected("hard-bounce"), "rejected_hard_bounce", Dead),
            (Mandrill::rejected("spam"), "rejected_spam", Dead),
            (Mandrill::rejected("unsub"), "rejected_unsub", Dead),
            (Mandrill::rejected("soft-bounce"), "rejected_soft_bounce", Wrong),
            (Mandrill::rejected("rule"), "rejected_rule", Wrong),
            (says(500, "ValidationError"), "validation_error", Wrong),
            (status(413), "payload_too_large", Wrong),
            (after(status(429), "2"), "http_429", Later(2)),
            (says(500, "GeneralError"), "http_500", Later(0)),
            (after(says(500, "ServiceUnavailable"), "300"), "service_unavailable", Later(300)),
            (says(401, "Invalid_Key"), "invalid_key", Out(0)),
            (says(500, "PaymentRequired"), "payment_required", Out(0)),
            (says(500, "PoorReputation"), "poor_reputation", Out(0)),
            (Mandrill::rejected("unsigned"), "unsigned", Out(0)),
            (status(200), "unreadable_answer", Repeated),
        ],
    )
}

pub(super) fn smtp() -> Vec<Row> {
    let say = Reply::say;
    let hang_up = |text: &str| Reply::SayAndClose(text.to_owned());
    let rows = [
        (Command::Rcpt, say("550 5.1.1 no such user"), "smtp_550_5.1.1", Dead),
        (Command::Rcpt, say("550 5.1.2 no such domain"), "smtp_550_5.1.2", Dead),
        (Command::Rcpt, say("551 5.1.6 moved"), "smtp_551_5.1.6", Dead),
        (Command::Rcpt, say("556 5.1.10 null MX"), "smtp_556_5.1.10", Dead),
        (Command::Rcpt, say("550 5.2.1 disabled"), "smtp_550_5.2.1", Dead),
        (Command::Text, say("550 5.1.1 no such user"), "smtp_550_5.1.1", Dead),
        (Command::Rcpt, say("552 5.2.2 full"), "smtp_552_5.2.2", Wrong),
        (Command::Rcpt, say("552 5.2.2 full"), "smtp_552_5.2.2", FullForDays),
        (Command::Mail, say("552 5.3.4 too big"), "smtp_552_5.3.4", Wrong),
        (Command::Text, say("552 5.3.4 too big"), "smtp_552_5.3.4", Wrong),
        (Command::Text, say("552 no room"), "smtp_552", Wrong),
        (Command::Greeting, hang_up("421 4.3.2 closing"), "smtp_421_4.3.2", Later(0)),
        (Command::Data, hang_up("421 4.3.2 closing"), "smtp_421_4.3.2", Later(0)),
        (Command::Rcpt, say("450 4.2.0 greylisted"), "smtp_450_4.2.0", Later(0)),
        (Command::Rcpt, say("451 4.7.1 try again later"), "smtp_451_4.7.1", Later(0)),
        (Command::Rcpt, say("452 4.2.2 over quota"), "smtp_452_4.2.2", Later(0)),
        (Command::Text, say("454 Throttling failure"), "smtp_454", Later(0)),
        (Command::Auth, say("454 4.7.0 temporary"), "smtp_454_4.7.0", Later(0)),
        (Command::Data, Reply::Close, "connection_lost", Later(0)),
        (Command::Mail, say("530 5.7.0 sign in first"), "authentication_failed", Out(0)),
        (Command::Auth, say("534 5.7.9 too weak"), "authentication_failed", Out(0)),
        (Command::Auth, say("535 5.7.8 wrong"), "authentication_failed", Out(0)),
        (Command::Greeting, hang_up("554 5.7.1 blocked"), "server_refused", Out(0)),
        (Command::Mail, say("550 5.7.1 not as this sender"), "sender_refused", Out(0)),
        // Nothing was taken since it began. What follows when something was, the tests beside `refusals.rs` tell.
        (Command::Rcpt, say("554 5.7.1 relay access denied"), "smtp_554_5.7.1", Out(0)),
        (Command::Data, say("550 5.7.60 not as this sender"), "smtp_550_5.7.60", Out(0)),
        (Command::Text, say("550 5.7.1 policy"), "smtp_550_5.7.1", Out(0)),
        (Command::Text, Reply::Close, "no_answer_after_data", Repeated),
    ];
    let row = |(command, reply, reason, meaning): (Command, Reply, &'static str, Meaning)| {
        let said = Said::Reply(command, reply);
        Row { provider: "smtp", said, reason, meaning }
    };
    rows.into_iter().map(row).collect()
}
