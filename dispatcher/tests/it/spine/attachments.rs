//! Attachments: they get to every e-mail, whichever way it goes, and to nothing else.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use peal_common::attachment::{Attachment, Attachments, MAX_ATTACHED_BYTES};
use peal_common::channel::Channel;
use peal_common::envelope::{ATTACHED_VERSION, ENVELOPE_VERSION, Envelope as _, Intake, Work};
use peal_common::event::EventType;
use peal_common::fallback::{Fallback, FallbackUntil};
use peal_dispatcher::recording::{Answer, Command, Reply, Smtp, Telegram, Webhooks};
use peal_nats::publish::Outgoing;
use peal_nats::topology::SANDBOX;
use serde_json::json;

use super::LIMIT;
use super::region::{Region, eventually, from_now, intake, kinds, work};

const NAME: &str = "invoice-of-kim.pdf";
const CONTENT: &[u8] = b"%PDF-1.7\nA thing that nobody else must see\n";
const ADDRESS: &str = "kim@example.com";

fn attachments() -> Attachments {
    of(CONTENT)
}

fn of(content: &[u8]) -> Attachments {
    let file = Attachment {
        filename: NAME.to_owned(),
        content_type: "application/pdf".to_owned(),
        content: STANDARD.encode(content),
    };
    [file].into_iter().collect()
}

/// A notification with an attachment, as the gateway would have accepted it.
fn attached(id: &str, recipients: &[&str], state: u64) -> Intake {
    with(attachments(), intake(id, recipients, state))
}

fn with(attachments: Attachments, mut intake: Intake) -> Intake {
    intake.notification.attachments = attachments;
    Intake { v: intake.v.max(intake.notification.version()), ..intake }
}

/// Whether an e-mail has the attachment.
fn has_it(mail: &peal_dispatcher::recording::Mail) -> bool {
    mail.text.replace("\r\n", "").contains(&STANDARD.encode(CONTENT)) && mail.text.contains(NAME)
}

fn settings(mails: &Smtp) -> String {
    format!(
        "[channels.email.smtp]\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\nfrom = \"Shop <shop@example.com>\"\n",
        mails.address().port()
    )
}

/// A region whose recipient `mail` has an e-mail address.
async fn set_up() -> (Region, Smtp, u64) {
    let (region, mails) = (Region::start().await, Smtp::start().await.unwrap());
    region.category("orders", json!({"class": "transactional"})).await;
    let state = region.recipient("mail", &[(Channel::Email, ADDRESS)], json!({})).await;
    (region, mails, state)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_e_mails_carry_them_and_nothing_tells_of_them() {
    let (region, mails, _) = set_up().await;
    let hook = Webhooks::start().await.unwrap();
    hook.answer(Answer::status(500));
    let state = region.recipient("hook", &[(Channel::Webhook, &hook.url("/"))], json!({})).await;
    let dispatcher = region.dispatcher(&settings(&mails));
    region.accept(&attached("n-1", &["hook", "mail"], state)).await;
    let mail = mails.wait_for(1, LIMIT).await.unwrap().remove(0);
    assert!(has_it(&mail), "{}", mail.text);
    region.event("n-1", EventType::DeadLettered).await;
    region.drained().await;

    let encoded = STANDARD.encode(CONTENT);
    for request in hook.wait_for(1, LIMIT).await.unwrap() {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        assert!(!body.contains(&encoded) && !body.contains(NAME), "{body}");
    }
    let letters = region.dead_letters().await;
    let work = letters[0].work.as_ref().unwrap();
    assert_eq!((letters.len(), work.channel, work.notification.attachments.len()), (1, Channel::Webhook, 0));
    assert_eq!((letters[0].v, work.v), (ENVELOPE_VERSION, ENVELOPE_VERSION), "older ones may deliver it");
    let events = serde_json::to_string(&region.events().await).unwrap();
    assert!(!events.contains(&encoded) && !events.contains(NAME), "{events}");
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_was_given_up_has_them_when_it_is_replayed() {
    let (region, mails, state) = set_up().await;
    mails.reply_next(Command::Text, Reply::say("554 5.6.0 not today"));
    let dispatcher = region.dispatcher(&settings(&mails));
    region.accept(&attached("n-1", &["mail"], state)).await;
    region.event("n-1", EventType::Failed).await;
    region.drained().await;
    let letter = region.dead_letters().await.remove(0);
    assert_eq!(letter.v, ATTACHED_VERSION, "a gateway that does not know attachments leaves it alone");
    let work = letter.work.unwrap();
    let work = Work { attempts: 0, replays: 1, ..*work };
    assert_eq!((work.v, &work.notification.attachments), (ATTACHED_VERSION, &attachments()));
    region.connection.publish(Outgoing::new(letter.subject, work.encode().unwrap())).await.unwrap();
    region.event("n-1", EventType::Sent).await;
    region.drained().await;
    let all = mails.mails();
    assert_eq!(
        all.iter().map(|mail| (mail.accepted, has_it(mail))).collect::<Vec<_>>(),
        [(false, true), (true, true)]
    );
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_e_mail_that_follows_another_channel_has_them() {
    let region = Arc::new(Region::start().await);
    let (mails, bot) = (Smtp::start().await.unwrap(), Telegram::start().await.unwrap());
    bot.answer_with(|_| Telegram::error(403, "Forbidden: bot was blocked by the user", None));
    region.category("orders", json!({"class": "transactional", "channels": ["telegram", "email"]})).await;
    let contacts = [(Channel::Telegram, "4711"), (Channel::Email, ADDRESS)];
    let state = region.recipient("both", &contacts, json!({})).await;
    let _gateway = super::fallbacks::gateway(&region).await;
    let telegram = format!("[channels.telegram]\ntoken = \"1:secret\"\nbase_url = \"{}\"\n", bot.base_url());
    let dispatcher = region.dispatcher(&(settings(&mails) + &telegram));
    let mut intake = attached("n-1", &["both"], state);
    intake.notification.fallback = Some(Fallback { after_seconds: 3_600, until: FallbackUntil::Delivered });
    region.accept(&intake).await;
    let mail = mails.wait_for(1, LIMIT).await.unwrap().remove(0);
    assert!(has_it(&mail), "{}", mail.text);
    assert!(!format!("{:?}", bot.wait_for(1, LIMIT).await.unwrap()).contains(NAME));
    region.event("n-1", EventType::Sent).await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_wait_with_what_is_sent_later_and_move_with_what_is_taken_over() {
    let (region, mails, state) = set_up().await;
    let dispatcher = region.dispatcher(&settings(&mails));
    let later = Intake { send_at: Some(from_now(2)), ..attached("later", &["mail"], state) };
    region.accept(&later).await;
    let planned = work(&region.sealer, "taken", "mail", Channel::Email, ADDRESS, state);
    let taken = super::takeovers::taken("taken", &[planned], peal_common::envelope::WhenAmbiguous::Send);
    region.accept(&with(attachments(), taken)).await;
    let all = mails.wait_for(2, LIMIT).await.unwrap();
    assert!(all.iter().all(has_it));
    region.drained().await;
    assert!(kinds(&region.events().await, "later").contains(&EventType::Scheduled));
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_ones_get_to_many_recipients() {
    let (region, mails, _) = set_up().await;
    // More than may be on its way to JetStream at once.
    let names: Vec<_> = (0..30).map(|number| format!("u-{number}")).collect();
    let mut state = 0;
    for name in &names {
        state = region.recipient(name, &[(Channel::Email, &format!("{name}@example.com"))], json!({})).await;
    }
    let dispatcher = region.dispatcher(&settings(&mails));
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let large: Vec<u8> = (0..=255).cycle().take(MAX_ATTACHED_BYTES).collect();
    region.accept(&with(of(&large), intake("n-1", &names, state))).await;
    let all = mails.wait_for(names.len(), LIMIT).await.unwrap();
    let encoded = STANDARD.encode(&large);
    assert!(all.iter().all(|mail| mail.text.replace("\r\n", "").contains(&encoded)));
    region.drained().await;
    assert_eq!(mails.mails().len(), names.len());
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_tells_name_type_and_size() {
    let (region, _, state) = set_up().await;
    let dispatcher = region.dispatcher("[channels.sandbox]\nenabled = true");
    region.accept(&attached("n-1", &["mail"], state)).await;
    region.event("n-1", EventType::Sent).await;
    let subject = region.subjects.sandbox(Channel::Email);
    eventually("it is recorded", async || {
        region.connection.last_of(SANDBOX, &subject).await.unwrap().is_some()
    })
    .await;
    let recorded = region.connection.last_of(SANDBOX, &subject).await.unwrap().unwrap();
    let message: serde_json::Value = serde_json::from_slice(&recorded.payload).unwrap();
    let expected = json!([{"filename": NAME, "content_type": "application/pdf", "size": CONTENT.len()}]);
    assert_eq!(message["attachments"], expected);
    dispatcher.end().await;
}
