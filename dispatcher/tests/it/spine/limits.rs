//! Rate limits that several dispatchers keep together.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use peal_common::channel::Channel;
use peal_common::envelope::Text;
use peal_common::event::EventType;
use peal_dispatcher::recording::{Answer, Request, Telegram, Webhooks};
use serde_json::json;
use tokio::time::Instant;

use super::region::{Region, intake};

const RSA_KEY: &str = include_str!("../../keys/rsa-2048.pem");
const OK: &str = r#"{"ok":true,"result":{"message_id":1}}"#;
/// As many as go in some seconds.
const MESSAGES: usize = 90;
/// What a machine that is busy may add between a turn and its call.
const JITTER: Duration = Duration::from_millis(100);

/// A bot that notes when it is called.
async fn bot(
    answer: impl Fn(usize) -> Answer + Send + Sync + 'static,
) -> (Telegram, Arc<Mutex<Vec<Instant>>>) {
    let (bot, times) = (Telegram::start().await.unwrap(), Arc::<Mutex<Vec<Instant>>>::default());
    let noted = Arc::clone(&times);
    bot.answer_with(move |_| {
        let mut noted = noted.lock().unwrap();
        noted.push(Instant::now());
        answer(noted.len())
    });
    (bot, times)
}

fn settings(bot: &Telegram) -> String {
    format!("[channels.telegram]\ntoken = \"1:a\"\nbase_url = \"{}\"\n", bot.base_url())
}

/// Makes as many recipients, each with a chat.
async fn recipients(region: &Region, count: usize) -> (Vec<String>, u64) {
    region.category("orders", json!({"class": "transactional", "channels": ["telegram"]})).await;
    let (mut names, mut state) = (Vec::new(), 0);
    for number in 0..count {
        let (name, chat) = (format!("u-{number}"), format!("{}", 1000 + number));
        state = region.recipient(&name, &[(Channel::Telegram, &chat)], json!({})).await;
        names.push(name);
    }
    (names, state)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_dispatchers_send_no_more_than_a_bot_may() {
    let region = Region::start().await;
    let (bot, times) = bot(|_| Answer::status(200).body(OK)).await;
    let (names, state) = recipients(&region, MESSAGES).await;
    let dispatchers = [0, 1, 2].map(|_| region.dispatcher(&settings(&bot)));
    // Each of them has some in hand: a notification for every recipient, not one for all.
    for name in &names {
        region.accept(&intake(&format!("n-{name}"), &[name.as_str()], state)).await;
    }
    bot.wait_for(MESSAGES, Duration::from_secs(30)).await.unwrap();
    let mut times = times.lock().unwrap().clone();
    times.sort();
    for (place, at) in times.iter().enumerate() {
        let second = *at + Duration::from_secs(1) - JITTER;
        let within = times[place..].iter().take_while(|other| **other < second).count();
        assert!(within <= 30, "{within} within a second");
    }
    let took = *times.last().unwrap() - times[0];
    let least = Duration::from_millis(40) * (MESSAGES - 4) as u32;
    assert!(took >= least - JITTER, "{took:?} for {MESSAGES} messages, of which 25 go in a second");
    for dispatcher in dispatchers {
        dispatcher.end().await;
    }
    assert_eq!(bot.count(), MESSAGES);
}

/// An account that may be sent ten messages in a second, and how many of them a message counts for.
struct Limited {
    channel: Channel,
    address: fn(usize) -> String,
    settings: fn(&str) -> String,
    body: &'static str,
    turns: usize,
}

const LIMITED: [Limited; 4] = [
    Limited {
        channel: Channel::Sms,
        address: |number| format!("+8210000000{number:02}"),
        settings: twilio,
        body: "Hi",
        turns: 1,
    },
    // Twilio counts segments; 71 characters of UCS-2 take two (3GPP TS 23.040 §9.2.3.24.1).
    Limited {
        channel: Channel::Sms,
        address: |number| format!("+8210000000{number:02}"),
        settings: twilio,
        body: "가나다라마바사아자차가나다라마바사아자차가나다라마바사아자차가나다라마바사아자차가나다라마바사아자차가나다라마바사아자차가나다라마바사아자차가",
        turns: 2,
    },
    Limited {
        channel: Channel::Email,
        address: |number| format!("kim-{number}@example.com"),
        settings: |url| {
            format!(
                "[channels.email.sendgrid]\nkey = \"SG.k\"\nfrom = \"shop@example.com\"\nbase_url = \"{url}\"\n\
                 rate_per_second = 10\n"
            )
        },
        body: "Hi",
        turns: 1,
    },
    Limited {
        channel: Channel::Fcm,
        address: |number| format!("device-{number}"),
        settings: |url| {
            let account = json!({
                "type": "service_account", "project_id": "shop", "private_key_id": "k", "private_key": RSA_KEY,
                "client_email": "peal@shop.iam.gserviceaccount.com", "token_uri": format!("{url}/token"),
            });
            format!(
                "[channels.fcm]\nservice_account = '''{account}'''\nbase_url = \"{url}\"\nrate_per_second = 10\n"
            )
        },
        body: "Hi",
        turns: 1,
    },
];

fn twilio(url: &str) -> String {
    format!(
        "[channels.sms.twilio]\naccount_sid = \"AC{:032}\"\nauth_token = \"t\"\nfrom = \"+14155550100\"\n\
         base_url = \"{url}\"\nrate_per_second = 10\n",
        1
    )
}

/// What any of their providers takes a message with.
fn taken(request: &Request) -> Answer {
    let token = json!({"access_token": "ya29.1", "expires_in": 3600, "token_type": "Bearer"});
    let body = match request.path.as_str() {
        "/token" => token,
        _ => json!({"sid": "SM1", "status": "queued", "name": "projects/shop/messages/1"}),
    };
    let status = match request.path.rsplit('/').next() {
        Some("Messages.json") => 201,
        Some("send") => 202,
        _ => 200,
    };
    Answer::status(status).header("x-message-id", "1").body(body.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_dispatchers_send_no_more_than_an_account_may() {
    for limited in LIMITED {
        let messages = 20 / limited.turns;
        let region = Region::start().await;
        let (server, times) = (Webhooks::start().await.unwrap(), Arc::<Mutex<Vec<Instant>>>::default());
        let noted = Arc::clone(&times);
        server.answer_with(move |request| {
            if request.path != "/token" {
                noted.lock().unwrap().push(Instant::now());
            }
            taken(request)
        });
        let channels = json!({"class": "transactional", "channels": [limited.channel]});
        region.category("orders", channels).await;
        let mut state = 0;
        for number in 0..messages {
            let contact = (limited.channel, (limited.address)(number));
            state = region.recipient(&format!("u-{number}"), &[(contact.0, &contact.1)], json!({})).await;
        }
        let settings = (limited.settings)(&format!("http://{}", server.address()));
        let dispatchers = [0, 1, 2].map(|_| region.dispatcher(&settings));
        for number in 0..messages {
            let mut intake = intake(&format!("n-{number}"), &[&format!("u-{number}")], state);
            let content = json!({"title": "Order", "body": limited.body});
            intake.notification.text = Text::Content(serde_json::from_value(content).unwrap());
            region.accept(&intake).await;
        }
        for number in 0..messages {
            region.event(&format!("n-{number}"), EventType::Sent).await;
        }
        let mut times = times.lock().unwrap().clone();
        times.sort();
        assert_eq!(times.len(), messages);
        for (place, at) in times.iter().enumerate() {
            let second = *at + Duration::from_secs(1) - JITTER;
            let within = times[place..].iter().take_while(|other| **other < second).count();
            assert!(within * limited.turns <= 12, "{within} within a second on {}", limited.channel);
        }
        region.drained().await;
        for dispatcher in dispatchers {
            dispatcher.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_that_is_paused_is_left_alone_by_all_dispatchers() {
    let region = Region::start().await;
    let (bot, times) = bot(|count| match count {
        6 => Telegram::error(429, "Too Many Requests", Some(2)),
        _ => Answer::status(200).body(OK),
    })
    .await;
    let (names, state) = recipients(&region, 30).await;
    let dispatchers = [0, 1, 2].map(|_| region.dispatcher(&settings(&bot)));
    for name in &names {
        region.accept(&intake(&format!("n-{name}"), &[name.as_str()], state)).await;
    }
    for name in &names {
        region.event(&format!("n-{name}"), EventType::Sent).await;
    }
    let times = times.lock().unwrap().clone();
    let refused = times[5];
    // Those that were on their way when the answer came could not know.
    let early =
        times.iter().filter(|at| **at > refused + JITTER && **at < refused + Duration::from_secs(2)).count();
    assert_eq!(early, 0, "{times:?}");
    assert_eq!(times.len(), names.len() + 1);
    for dispatcher in dispatchers {
        dispatcher.end().await;
    }
}
