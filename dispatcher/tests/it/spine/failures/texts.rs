//! Twilio, Vonage, and the gateways of others.

use peal_dispatcher::recording::{Answer, Twilio, Vonage};
use serde_json::json;

use super::{Asked, Dead, Later, Out, Row, Unknown, Wrong, after, answers, status};
use crate::spine::accounts::json_of;

pub(super) fn twilio() -> Vec<Row> {
    let says = |code| Twilio::error(400, code);
    let failed = |code: u32| json_of(201, &json!({"sid": "SM1", "status": "failed", "error_code": code}));
    answers(
        "twilio",
        [
            (says(21211), "twilio_21211", Dead),
            (says(21614), "twilio_21614", Dead),
            (says(21610), "twilio_21610", Dead),
            (says(21635), "twilio_21635", Dead),
            (failed(30005), "twilio_30005", Dead),
            (failed(30006), "twilio_30006", Dead),
            (failed(30007), "twilio_30007", Wrong),
            (says(21617), "twilio_21617", Wrong),
            (Twilio::error(429, 20429), "twilio_20429", Later(0)),
            (after(Twilio::error(429, 20429), "2"), "twilio_20429", Later(2)),
            (after(Twilio::error(429, 20429), "300"), "twilio_20429", Later(300)),
            (failed(30001), "twilio_30001", Later(0)),
            (says(21611), "twilio_21611", Later(0)),
            (failed(30003), "twilio_30003", Later(0)),
            (after(status(503), "2"), "http_503", Later(2)),
            (Twilio::error(401, 20003), "twilio_20003", Out(0)),
            (says(21606), "twilio_21606", Out(0)),
            (says(21608), "twilio_21608", Out(0)),
            (status(403), "http_403", Out(0)),
            (Twilio::error(500, 20500), "http_500", Asked),
            (status(503), "http_503", Asked),
            (Answer::reset(), "no_answer_after_send", Asked),
        ],
    )
}

pub(super) fn vonage() -> Vec<Row> {
    let says = |status| Vonage::parts(&[status]);
    answers(
        "vonage",
        [
            (says(7), "vonage_7", Dead),
            (says(2), "vonage_2", Wrong),
            (says(3), "vonage_3", Wrong),
            (says(6), "vonage_6", Wrong),
            (says(1), "vonage_1", Later(0)),
            (after(says(1), "2"), "vonage_1", Later(2)),
            (says(5), "vonage_5", Later(0)),
            (says(10), "vonage_10", Later(0)),
            (after(status(429), "300"), "http_429", Later(300)),
            (says(4), "vonage_4", Out(0)),
            (says(8), "vonage_8", Out(0)),
            (says(9), "vonage_9", Out(0)),
            (status(401), "http_401", Out(0)),
            (Vonage::parts(&[0, 5]), "partly_sent", Unknown),
            (status(500), "http_500", Unknown),
            (Answer::reset(), "no_answer_after_send", Unknown),
        ],
    )
}

pub(super) fn gateway() -> Vec<Row> {
    answers(
        "sms_http",
        [
            (status(400), "http_400", Wrong),
            (status(413), "http_413", Wrong),
            (status(429), "http_429", Later(0)),
            (after(status(429), "2"), "http_429", Later(2)),
            (after(status(503), "300"), "http_503", Later(300)),
            (status(401), "http_401", Out(0)),
            (status(403), "http_403", Out(0)),
            (status(302), "http_302", Out(0)),
            (status(404), "http_404", Out(0)),
            (status(405), "http_405", Out(0)),
            (status(500), "http_500", Unknown),
            (Answer::reset(), "no_answer_after_send", Unknown),
        ],
    )
}
