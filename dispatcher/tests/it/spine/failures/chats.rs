//! Telegram and Alimtalk.

use peal_dispatcher::recording::{Aligo, Answer, Telegram};
use serde_json::json;

use super::{Asked, Dead, Later, Out, Repeated, Row, Said, Wrong, after, answers, status};
use crate::spine::accounts::json_of;

pub(super) fn telegram() -> Vec<Row> {
    let says = |code, description| Telegram::error(code, description, None);
    let migrated = json!({"ok": false, "error_code": 400, "parameters": {"migrate_to_chat_id": -1}});
    answers(
        "telegram",
        [
            (says(403, "Forbidden: bot was blocked by the user"), "http_403", Dead),
            (says(403, "Forbidden: user is deactivated"), "http_403", Dead),
            (says(403, "Forbidden: bot was kicked from the group chat"), "http_403", Dead),
            (says(400, "Bad Request: chat not found"), "chat_not_found", Dead),
            (json_of(400, &migrated), "chat_migrated", Dead),
            (says(400, "Bad Request: message is too long"), "message_too_long", Wrong),
            (says(400, "Bad Request: can't parse entities: x"), "invalid_html", Wrong),
            // What else follows from it is told in crowds.rs.
            (Telegram::error(429, "Too Many Requests", Some(2)), "http_429", Later(2)),
            (says(500, "Internal Server Error"), "http_500", Later(0)),
            (status(502), "http_502", Later(0)),
            (says(401, "Unauthorized"), "token_refused", Out(0)),
            (says(404, "Not Found"), "token_refused", Out(0)),
            (status(301).header("location", "https://example.com/"), "redirect_refused", Out(0)),
            (status(405), "http_405", Out(0)),
            (Answer::reset(), "no_answer_after_send", Repeated),
        ],
    )
}

pub(super) fn alimtalk() -> Vec<Row> {
    answers(
        "aligo",
        [
            (status(413), "http_413", Wrong),
            (after(status(429), "2"), "http_429", Later(2)),
            (after(status(503), "300"), "http_503", Later(300)),
            (Aligo::error(-99), "aligo_-99", Later(0)),
            (Aligo::error(-101), "aligo_-101", Out(0)),
            (status(403), "http_403", Out(0)),
            (status(500), "http_500", Asked),
            (Answer::reset(), "no_answer_after_send", Asked),
        ],
    )
}

/// What Kakao did with messages that Aligo took.
pub(super) fn alimtalk_results() -> Vec<Row> {
    let rows = [
        ("3008", "alimtalk_3008", Dead),
        ("3018", "alimtalk_3018", Dead),
        ("3016", "alimtalk_3016", Wrong),
        ("9998", "alimtalk_9998", Later(0)),
        ("9999", "alimtalk_9999", Later(0)),
        ("1002", "alimtalk_1002", Out(0)),
        ("1003", "alimtalk_1003", Out(0)),
        ("1004", "alimtalk_1004", Out(0)),
        ("1005", "alimtalk_1005", Out(0)),
        ("1006", "alimtalk_1006", Out(0)),
        ("1007", "alimtalk_1007", Out(0)),
        ("1021", "alimtalk_1021", Out(0)),
        ("1022", "alimtalk_1022", Out(0)),
        ("1023", "alimtalk_1023", Out(0)),
        ("1024", "alimtalk_1024", Out(0)),
    ];
    let row = |(code, reason, meaning)| Row { provider: "aligo", said: Said::Result(code), reason, meaning };
    rows.into_iter().map(row).collect()
}
