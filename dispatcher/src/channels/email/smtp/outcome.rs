//! What a mail server's answer means, by the step at which it came.

use lettre::transport::smtp::Error;

use peal_common::outcome::Outcome;

use crate::channels::outcomes::{address_dead, ambiguous, permanent, retry, unavailable};

/// The steps of sending an e-mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Looking up the name and connecting.
    Connect,
    /// The server's greeting and EHLO.
    Hello,
    /// STARTTLS or the TLS handshake.
    Tls,
    /// AUTH.
    Auth,
    /// RSET, on a connection that is used again.
    Reset,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA.
    Data,
    /// The text, up to its final dot.
    Text,
    /// From the first byte of the final dot on: the server may have taken the e-mail.
    End,
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server answered no.
    Refused {
        /// The reply code, 400 to 599.
        code: u16,
        /// The enhanced status code (RFC 3463), where the server gave one.
        enhanced: Option<Enhanced>,
    },
    /// The connection could not be made or broke.
    Lost,
    /// No answer in time.
    TimedOut,
    /// An answer that does not belong here.
    Unexpected,
    /// The server does not offer what the settings demand.
    NotOffered,
}

/// An enhanced status code, such as 5.1.1 (RFC 3463 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Enhanced(u8, u16, u16);

impl Enhanced {
    /// Reads the code with which a reply's text starts.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split_whitespace().next()?.splitn(3, '.');
        let mut next = || parts.next().filter(|part| (1..=3).contains(&part.len()));
        let (class, subject, detail) = (next()?, next()?, next()?);
        let class = class.parse().ok().filter(|class| matches!(class, 2 | 4 | 5))?;
        Some(Enhanced(class, subject.parse().ok()?, detail.parse().ok()?))
    }
}

impl Failure {
    /// What lettre's error stands for.
    pub(super) fn of(error: &Error) -> Self {
        if let Some(code) = error.status() {
            let code = u16::from(code.severity as u8) * 100
                + u16::from(code.category as u8) * 10
                + u16::from(code.detail as u8);
            // The source of such an error is the reply's text. It may name the address: it goes no further.
            let text = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            return Failure::Refused { code, enhanced: Enhanced::parse(&text) };
        }
        if error.is_timeout() {
            Failure::TimedOut
        } else if error.is_response() && std::error::Error::source(error).is_none_or(|e| e.to_string() != EOF)
        {
            Failure::Unexpected
        } else {
            Failure::Lost
        }
    }

    /// Whether the connection can't be used any more. 421 announces that the server hangs up (RFC 5321 §3.8).
    pub(super) const fn ends_connection(&self) -> bool {
        !matches!(self, Failure::Refused { code, .. } if *code != 421)
    }
}

/// How lettre words the end of the stream.
const EOF: &str = "incomplete response";

/// The outcome of an e-mail that failed at `step`.
pub(super) fn of(step: Step, failure: &Failure) -> Outcome {
    match failure {
        Failure::Refused { code, enhanced } => of_refusal(step, *code, *enhanced),
        Failure::NotOffered if step == Step::Tls => unavailable("starttls_not_offered"),
        Failure::NotOffered => unavailable("authentication_not_offered"),
        _ if step == Step::End => ambiguous("no_answer_after_data"),
        _ if step == Step::Connect => retry("connect_failed", None),
        Failure::Lost if step == Step::Tls => unavailable("tls_failed"),
        Failure::Lost => retry("connection_lost", None),
        Failure::TimedOut => retry("timeout", None),
        Failure::Unexpected => retry("unexpected_answer", None),
    }
}

/// Whether a policy is against the e-mail once its recipient is named: against this one, or against all of ours. Which of both,
/// one answer does not tell.
pub(super) const fn is_policy(step: Step, failure: &Failure) -> bool {
    matches!(step, Step::Rcpt | Step::Data | Step::Text | Step::End)
        && matches!(failure, Failure::Refused { code: 500.., enhanced: Some(Enhanced(5, 7, _)) })
        && !matches!(failure, Failure::Refused { code: 530 | 534 | 535, .. })
}

fn of_refusal(step: Step, code: u16, enhanced: Option<Enhanced>) -> Outcome {
    let reason = match enhanced {
        Some(Enhanced(class, subject, detail)) => format!("smtp_{code}_{class}.{subject}.{detail}"),
        None => format!("smtp_{code}"),
    };
    // 530, 534 and 535 say that signing in is missing or wrong, at whatever command (RFC 4954 §6).
    if matches!(code, 530 | 534 | 535) {
        return unavailable("authentication_failed");
    }
    if code < 500 {
        return retry(reason, None);
    }
    match (step, enhanced) {
        (Step::Auth, _) => unavailable("authentication_failed"),
        // One e-mail too large says nothing of the others (RFC 1870 §6.1).
        (Step::Mail, Some(Enhanced(_, 3, 4))) => permanent(reason),
        (Step::Mail, _) if code == 552 => permanent(reason),
        // Before a recipient is named, a refusal concerns the sender or this machine, and so every e-mail.
        (Step::Connect | Step::Hello | Step::Tls | Step::Reset | Step::Mail, _) => {
            unavailable(if step == Step::Mail { "sender_refused" } else { "server_refused" })
        }
        // No such mailbox, no such domain, moved without address, null MX, mailbox disabled (RFC 3463 §3.2 and §3.3,
        // RFC 7505 §4.2).
        (_, Some(Enhanced(5, 1, 1 | 2 | 6 | 10) | Enhanced(5, 2, 1))) => address_dead(reason),
        // The mailbox is full (RFC 3463 §3.3).
        (_, Some(Enhanced(5, 2, 2))) => Outcome::AddressFull { reason },
        // Security or policy (RFC 3463 §3.8): a relay that does not take us for one of its own says so of every e-mail.
        (_, Some(Enhanced(5, 7, _))) => unavailable(reason),
        _ => permanent(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(step: Step, code: u16, enhanced: &str) -> Outcome {
        of(step, &Failure::Refused { code, enhanced: Enhanced::parse(enhanced) })
    }

    #[test]
    fn refusals_are_told_apart_by_step_and_code() {
        let cases = [
            (Step::Rcpt, 550, "5.1.1 no such user", address_dead("smtp_550_5.1.1")),
            (Step::Rcpt, 550, "5.1.2", address_dead("smtp_550_5.1.2")),
            (Step::Rcpt, 551, "5.1.6", address_dead("smtp_551_5.1.6")),
            (Step::Rcpt, 556, "5.1.10", address_dead("smtp_556_5.1.10")),
            (Step::Rcpt, 550, "5.2.1", address_dead("smtp_550_5.2.1")),
            (Step::End, 550, "5.1.1", address_dead("smtp_550_5.1.1")),
            (Step::Rcpt, 550, "no such user", permanent("smtp_550")),
            (Step::Rcpt, 552, "5.2.2 full", Outcome::AddressFull { reason: "smtp_552_5.2.2".to_owned() }),
            (Step::Rcpt, 550, "5.7.1 policy", unavailable("smtp_550_5.7.1")),
            (Step::Rcpt, 554, "5.7.1 relay access denied", unavailable("smtp_554_5.7.1")),
            (Step::Data, 550, "5.7.60 not as this sender", unavailable("smtp_550_5.7.60")),
            (Step::End, 554, "5.7.1 spam", unavailable("smtp_554_5.7.1")),
            (Step::Rcpt, 451, "4.7.1 later", retry("smtp_451_4.7.1", None)),
            (Step::End, 552, "5.3.4", permanent("smtp_552_5.3.4")),
            (Step::Mail, 552, "5.3.4", permanent("smtp_552_5.3.4")),
            (Step::Mail, 550, "5.7.1", unavailable("sender_refused")),
            (Step::Mail, 550, "5.1.1", unavailable("sender_refused")),
            (Step::Mail, 530, "5.7.0 authenticate first", unavailable("authentication_failed")),
            (Step::Hello, 554, "5.7.1 blocked", unavailable("server_refused")),
            (Step::Auth, 535, "5.7.8", unavailable("authentication_failed")),
            (Step::Auth, 550, "5.7.1", unavailable("authentication_failed")),
            (Step::Auth, 454, "4.7.0", retry("smtp_454_4.7.0", None)),
            (Step::Rcpt, 450, "4.2.0 greylisted", retry("smtp_450_4.2.0", None)),
            (Step::Rcpt, 451, "", retry("smtp_451", None)),
            (Step::Rcpt, 452, "4.2.2", retry("smtp_452_4.2.2", None)),
            (Step::Data, 421, "4.3.2", retry("smtp_421_4.3.2", None)),
            (Step::End, 454, "Throttling failure", retry("smtp_454", None)),
        ];
        for (step, code, text, expected) in cases {
            assert_eq!(refused(step, code, text), expected, "{step:?} {code} {text}");
        }
    }

    #[test]
    fn a_policy_is_one_from_the_recipient_on() {
        let of = |step, code, text: &str| {
            is_policy(step, &Failure::Refused { code, enhanced: Enhanced::parse(text) })
        };
        for step in [Step::Rcpt, Step::Data, Step::Text, Step::End] {
            assert!(of(step, 550, "5.7.1") && of(step, 554, "5.7.26"), "{step:?}");
            for (code, text) in [(550, "5.1.1"), (550, ""), (450, "4.7.1"), (450, "5.7.1"), (530, "5.7.0")] {
                assert!(!of(step, code, text), "{step:?} {code} {text}");
            }
            assert!(!is_policy(step, &Failure::Lost));
        }
        for step in [Step::Connect, Step::Hello, Step::Tls, Step::Auth, Step::Reset, Step::Mail] {
            assert!(!of(step, 550, "5.7.1"), "{step:?}");
        }
    }

    #[test]
    fn only_silence_after_the_final_dot_is_ambiguous() {
        let steps = [
            Step::Connect,
            Step::Hello,
            Step::Tls,
            Step::Auth,
            Step::Reset,
            Step::Mail,
            Step::Rcpt,
            Step::Data,
            Step::Text,
        ];
        for failure in [Failure::Lost, Failure::TimedOut, Failure::Unexpected] {
            for step in steps {
                let outcome = of(step, &failure);
                assert!(
                    matches!(outcome, Outcome::Retry { .. } | Outcome::Unavailable { .. }),
                    "{outcome:?}"
                );
            }
            assert_eq!(of(Step::End, &failure), ambiguous("no_answer_after_data"));
        }
    }

    #[test]
    fn enhanced_codes_are_read_where_they_are() {
        assert_eq!(Enhanced::parse("5.1.1 <a@b>: unknown"), Some(Enhanced(5, 1, 1)));
        assert_eq!(Enhanced::parse("4.7.26"), Some(Enhanced(4, 7, 26)));
        for none in ["", "no", "5.1", "5.1.x", "6.1.1", "5.1.1111", "1.2.3.4", "192.168.0.1 blocked"] {
            assert_eq!(Enhanced::parse(none), None, "{none:?}");
        }
    }

    #[test]
    fn an_answer_of_421_ends_the_connection_and_other_refusals_do_not() {
        assert!(Failure::Refused { code: 421, enhanced: None }.ends_connection());
        assert!(!Failure::Refused { code: 550, enhanced: None }.ends_connection());
        assert!(Failure::Lost.ends_connection() && Failure::TimedOut.ends_connection());
        assert!(Failure::Unexpected.ends_connection());
    }
}
