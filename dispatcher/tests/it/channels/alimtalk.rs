//! Alimtalk through Aligo: what is compared, what is sent, and what answers mean.

use futures_util::future::join_all;
use peal_common::channel::Channel;
use peal_common::outcome::Outcome;
use peal_common::settings::AligoSettings;
use peal_common::template::{Button, ButtonKind};
use peal_dispatcher::channels::Probe;
use peal_dispatcher::channels::alimtalk::{Client, Options};
use peal_dispatcher::recording::{Aligo, Answer};
use serde_json::{Value, json};
use tokio::time::timeout;
use url::form_urlencoded;

use super::fixture::{Fixture, SOON, address_dead, ambiguous, clock, fails, permanent, retry, unavailable};

const TEXT: &str = "[가게] #{name}님, 주문 #{order}이 출발했습니다.\n감사합니다.";

fn client_with(server: &Aligo, more: &str) -> Client {
    let text = format!(
        "api_key = \"s3cret\"\nuser_id = \"shop\"\nsender_key = \"s3nder\"\nsender = \"02-1234-5678\"\n\
         timeout_seconds = 1\nbase_url = \"{}\"\n{more}",
        server.base_url()
    );
    let settings: AligoSettings = toml::from_str(&text).unwrap();
    Client::new(Options::from_settings(&settings).unwrap(), clock()).unwrap()
}

fn client(server: &Aligo) -> Client {
    client_with(server, "")
}

async fn registered() -> Aligo {
    let server = Aligo::start().await.unwrap();
    server.register("T1", TEXT, &json!({}));
    server
}

fn to(number: &str) -> Fixture {
    let mut fixture = Fixture::to(Channel::Alimtalk, number, 1);
    fixture.rendered.title = None;
    fixture.rendered.text = "[가게] 김님, 주문 1042이 출발했습니다.\n감사합니다.".to_owned();
    fixture.rendered.template_code = Some("T1".to_owned());
    fixture
}

const NUMBER: &str = "+821012345678";

fn sent(batch: u32) -> Outcome {
    Outcome::Sent { provider_id: Some(batch.to_string()) }
}

fn form(body: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(body).into_owned().collect()
}

#[tokio::test]
async fn a_registered_text_is_sent_with_its_buttons() {
    let server = Aligo::start().await.unwrap();
    let buttons = json!([
        {"ordering": "1", "name": "배송조회", "linkType": "DS", "linkTypeName": "배송조회"},
        {"ordering": "2", "name": "보기", "linkType": "WL", "linkMo": "https://m.example.com/#{order}", "linkPc": ""},
    ]);
    server.register("T1", TEXT, &json!({"buttons": buttons, "templtTitle": "주문 #{order}"}));
    let mut fixture = to(NUMBER);
    fixture.rendered.title = Some("주문 1042".to_owned());
    let parcel = Button { name: "배송조회".to_owned(), kind: ButtonKind::Ds, ..Button::default() };
    let url = Some("https://m.example.com/1042".to_owned());
    let link = Button { name: "보기".to_owned(), url, ..Button::default() };
    fixture.rendered.buttons = vec![parcel, link];
    let client = client_with(&server, "failover = true\ntest_mode = true");
    assert_eq!(client.send(&fixture.message()).await, sent(1));

    let [list, send] = server.received().try_into().unwrap();
    assert_eq!((list.method.as_str(), list.path.as_str()), ("POST", "/akv10/template/list/"));
    let expected = [("apikey", "s3cret"), ("userid", "shop"), ("senderkey", "s3nder")];
    assert_eq!(form(&list.body), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!((send.method.as_str(), send.path.as_str()), ("POST", "/akv10/alimtalk/send/"));
    assert_eq!(send.header("content-type"), "application/x-www-form-urlencoded");
    let mut fields = form(&send.body);
    let at = fields.iter().position(|(name, _)| name == "button_1").unwrap();
    let buttons: Value = serde_json::from_str(&fields.remove(at).1).unwrap();
    assert_eq!(
        buttons,
        json!({"button": [
            {"name": "배송조회", "linkType": "DS", "linkTypeName": "배송조회"},
            {"name": "보기", "linkType": "WL", "linkTypeName": "웹링크", "linkMo": "https://m.example.com/1042"},
        ]})
    );
    let text = fixture.rendered.text.as_str();
    let expected = [
        ("apikey", "s3cret"),
        ("userid", "shop"),
        ("senderkey", "s3nder"),
        ("tpl_code", "T1"),
        ("sender", "0212345678"),
        ("failover", "Y"),
        ("testMode", "Y"),
        ("receiver_1", "01012345678"),
        ("subject_1", "주문 1042"),
        ("message_1", text),
        ("emtitle_1", "주문 1042"),
        ("fsubject_1", "주문 1042"),
        ("fmessage_1", text),
    ];
    assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[tokio::test]
async fn nothing_is_sent_that_kakao_would_drop() {
    let server = registered().await;
    server.register("T2", "x", &json!({"inspStatus": "REQ"}));
    let client = client(&server);
    let differs = "template_differs: line 1: \"이 출발했습니다.\" is registered there";
    type Change = fn(&mut Fixture);
    let changes: [(Change, &str); 6] = [
        (|it| it.rendered.text = it.rendered.text.replace("출발", "도착"), differs),
        (
            |it| it.rendered.buttons = vec![Button::default()],
            "template_differs: 0 buttons are registered, the message has 1",
        ),
        (|it| it.rendered.template_code = Some("T2".to_owned()), "template_not_approved: REQ"),
        (|it| it.rendered.template_code = Some("T9".to_owned()), "template_unknown"),
        (|it| it.rendered.template_code = None, "no_template_code"),
        (|it| it.contact.address = Some("+14155550100".to_owned()), "invalid_address"),
    ];
    for (change, reason) in changes {
        let mut fixture = to(NUMBER);
        change(&mut fixture);
        assert_eq!(client.send(&fixture.message()).await, permanent(reason));
    }
    assert_eq!(server.messages(), []);
    assert_eq!(client.send(&to(NUMBER).message()).await, sent(1));
    assert_eq!(server.received().len(), 2, "the texts were asked for once");
}

#[tokio::test]
async fn what_comes_together_goes_out_together() {
    let server = registered().await;
    let client = client(&server);
    let fixtures: Vec<_> = (0..1_000).map(|n| to(&format!("+8210{:08}", n))).collect();
    let outcomes = timeout(SOON, join_all(fixtures.iter().map(async |it| client.send(&it.message()).await)));
    assert!(outcomes.await.unwrap().iter().all(|outcome| matches!(outcome, Outcome::Sent { .. })));
    let messages = server.messages();
    assert_eq!((messages.len(), messages.last().unwrap().batch), (1_000, 2));
}

#[tokio::test]
async fn answers_are_told_apart_by_whether_something_may_have_been_sent() {
    let server = registered().await;
    let client = client(&server);
    let cases = [
        (Aligo::error(-101), unavailable("aligo_-101")),
        (Aligo::error(-99), retry("aligo_-99")),
        (Answer::status(200).body("<html>"), ambiguous("unreadable_answer")),
        (Answer::status(502), ambiguous("http_502")),
        (Answer::status(403), unavailable("http_403")),
        (Answer::status(200).endless(), ambiguous("unreadable_answer")),
        (Answer::status(200).stalled(), ambiguous("unreadable_answer")),
        (Answer::reset(), ambiguous("no_answer_after_send")),
        (Answer::hang(), ambiguous("no_answer_after_send")),
    ];
    for (answer, expected) in cases {
        server.answer(answer);
        let outcome = timeout(SOON, async { client.send(&to(NUMBER).message()).await }).await.unwrap();
        assert_eq!(outcome, expected);
    }
    server.take();
    assert_eq!(client.send(&to(NUMBER).message()).await, sent(1));
}

#[tokio::test]
async fn without_the_registered_texts_nothing_is_sent() {
    let server = registered().await;
    let gone = client_with(&server, "");
    drop(server);
    assert_eq!(gone.send(&to(NUMBER).message()).await, retry("connect_failed"));
}

#[tokio::test]
async fn results_are_asked_for_once_for_a_batch() {
    let server = registered().await;
    server.deliver(false);
    let client = client(&server);
    let (kim, lee) = (to(NUMBER), to("+821000000013"));
    let (first, second) = tokio::join!(async { client.send(&kim.message()).await }, async {
        client.send(&lee.message()).await
    });
    assert_eq!((first, second), (sent(1), sent(1)));
    assert_eq!(client.result("1", &kim.contact).await, Ok(None));
    let asked = server.received().len();
    assert_eq!(client.result("1", &lee.contact).await, Ok(None));
    assert_eq!(server.received().len(), asked);

    server.deliver(true);
    server.result("01000000013", "3008");
    let another = client_with(&server, "");
    let delivered = Outcome::Delivered { provider_id: None };
    assert_eq!(another.result("1", &kim.contact).await, Ok(Some(delivered)));
    assert_eq!(another.result("1", &lee.contact).await, Ok(Some(address_dead("alimtalk_3008"))));
    assert_eq!(another.result("7", &lee.contact).await, Ok(None));
}

#[tokio::test]
async fn asked_whether_it_works_it_sends_nothing() {
    let server = registered().await;
    assert_eq!(client(&server).probe().await, Probe::Works);
    assert_eq!(server.messages(), []);
    let gone = client_with(&server, "");
    drop(server);
    assert_eq!(gone.probe().await, fails("connect_failed"));
}
