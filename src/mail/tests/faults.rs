//! What is said when it does not go well: nothing is lost, nothing is sent twice, nobody waits for good.

use super::*;
use crate::mail::Stage;
use crate::mail::retry::next_attempt;

#[tokio::test]
async fn only_what_is_said_of_this_very_mail_is_final() {
    for (at, answer, stage, is_permanent) in [
        (At::Greeting, "554 5.3.2 closed", Stage::Connect, false),
        (At::Greeting, "421 4.3.2 later", Stage::Connect, false),
        (At::Greeting, "nonsense", Stage::Connect, false),
        (At::Ehlo, "550 5.7.1 who are you", Stage::Connect, false),
        (At::Mail, "451 4.3.0 later", Stage::Sender, false),
        (At::Mail, "553 5.7.1 not your address", Stage::Sender, false),
        (At::Rcpt, "450 4.2.0 greylisted", Stage::Recipient, false),
        (At::Rcpt, "452 4.2.2 full", Stage::Recipient, false),
        (At::Rcpt, "550 5.1.1 unknown", Stage::Recipient, true),
        (At::Rcpt, "553-5.1.3 bad\r\n553 5.1.3 very bad", Stage::Recipient, true),
        (At::Rcpt, "530 5.7.0 sign in first", Stage::Recipient, false),
        (At::Rcpt, "503 5.5.1 out of order", Stage::Recipient, false),
        (At::Data, "451 4.3.0 later", Stage::Content, false),
        (At::Data, "554 5.5.1 no", Stage::Content, true),
        (At::Data, "250 2.0.0 already", Stage::Content, false),
        (At::Content, "451 4.7.1 later", Stage::Content, false),
        (At::Content, "554 5.7.1 spam", Stage::Content, true),
        (At::Content, "500 5.5.2 what", Stage::Content, false),
        (At::Content, "354 go on", Stage::Content, false),
    ] {
        let server = Server::start(Plan::twisted(at, Twist::Say(answer), 1)).await;
        let mailer = mailer(smtp(&server));
        let message = reset(&mailer, "a@example.com");
        let error = mailer.deliver(&message).await.unwrap_err();
        assert_eq!((error.stage(), error.is_permanent()), (stage, is_permanent), "{answer}: {error}");
        assert!(server.mails().is_empty());
        mailer.deliver(&message).await.unwrap();
        assert_eq!(server.mails().len(), 1, "{answer}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_in_time_wherever_it_hangs() {
    let stages = [At::Greeting, At::Ehlo, At::Mail, At::Rcpt, At::Data, At::MidContent, At::Content];
    futures_util::future::join_all(stages.map(given_up)).await;
}

async fn given_up(at: At) {
    let server = Server::start(Plan::twisted(at, Twist::Hang, 1)).await;
    let mailer = quick(&server);
    let message = reset(&mailer, "a@example.com");
    let began = stopwatch();
    let error = mailer.deliver(&message).await.unwrap_err();
    let took = began.elapsed();
    assert!(!error.is_permanent(), "{at:?}: {error}");
    // One step for everything but the mail itself, ten for that: giving up on it early is what sends it twice.
    let steps = if matches!(at, At::MidContent | At::Content) { 10 } else { 1 };
    assert!(took >= SHORT * steps && took < SHORT * (steps + 4) && took < mailer.lease(), "{at:?}: {took:?}");
    mailer.deliver(&message).await.unwrap();
    assert_eq!(server.mails().len(), 1, "{at:?}");
}

#[tokio::test]
async fn a_server_that_goes_is_tried_again_wherever_it_went() {
    for at in [At::Greeting, At::Ehlo, At::Mail, At::Rcpt, At::Data, At::MidContent, At::Content] {
        let server = Server::start(Plan::twisted(at, Twist::Drop, 1)).await;
        let mailer = mailer(smtp(&server));
        let message = reset(&mailer, "a@example.com");
        let error = mailer.deliver(&message).await.unwrap_err();
        assert!(!error.is_permanent(), "{at:?}: {error}");
        mailer.deliver(&message).await.unwrap();
        assert_eq!(server.mails().len(), 1, "{at:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_down_or_unknown_costs_an_attempt_and_no_mail() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let server = Server::start(Plan::default()).await;
    let mailer = mailer(SmtpSettings { port, ..smtp(&server) });
    let message = reset(&mailer, "a@example.com");
    let error = mailer.deliver(&message).await.unwrap_err();
    assert_eq!(error.to_string(), "not delivered (connect): Connection refused (os error 111)");
    let back = Server::on(tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap(), Plan::default());
    mailer.deliver(&message).await.unwrap();
    assert_eq!(back.mails().len(), 1);
    let unknown = super::mailer(SmtpSettings { host: "mail.invalid".into(), ..smtp(&server) });
    assert!(!send(&unknown, "a@example.com").await.unwrap_err().is_permanent());
}

#[tokio::test]
async fn after_a_250_nothing_undoes_it_and_nothing_repeats_it() {
    for twist in [Twist::Hang, Twist::Drop, Twist::SayAndDrop("421 4.3.2 bye")] {
        let server = Server::start(Plan::twisted(At::Taken, twist, 1)).await;
        let mailer = quick(&server);
        let message = reset(&mailer, "a@example.com");
        mailer.deliver(&message).await.unwrap();
        // The queue could not be told, and asks again.
        for _ in 0..3 {
            mailer.deliver(&message).await.unwrap();
        }
        assert_eq!(server.mails().len(), 1, "{twist:?}");
        send(&mailer, "b@example.com").await.unwrap();
        let to: Vec<String> = server.mails().into_iter().map(|mail| mail.to).collect();
        assert_eq!(to, ["RCPT TO:<a@example.com>", "RCPT TO:<b@example.com>"], "{twist:?}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_is_gone_is_replaced_without_a_failure() {
    for twist in [
        (At::Noop, Twist::Drop, 1),
        (At::Noop, Twist::Hang, 1),
        (At::Noop, Twist::Say("421 4.4.2 idle"), 1),
        (At::Noop, Twist::Say("250 2.0.0 ok\r\n250 2.0.0 and again"), 1),
    ] {
        let server = Server::start(Plan { twists: vec![twist], ..Plan::default() }).await;
        let mailer = quick(&server);
        send(&mailer, "a@example.com").await.unwrap();
        send(&mailer, "b@example.com").await.unwrap();
        assert_eq!((server.mails().len(), server.connections()), (2, 2), "{twist:?}");
    }
}

#[tokio::test]
async fn a_server_that_ends_a_kept_connection_at_the_next_mail_gets_it_on_a_new_one() {
    for twist in [Twist::Drop, Twist::SayAndDrop("421 4.7.0 too many mails")] {
        let plan =
            Plan { twists: vec![(At::Mail, Twist::Late(Duration::ZERO), 1), (At::Mail, twist, 1)], ..Plan::default() };
        let server = Server::start(plan).await;
        let mailer = mailer(smtp(&server));
        send(&mailer, "a@example.com").await.unwrap();
        send(&mailer, "b@example.com").await.unwrap();
        assert_eq!((server.mails().len(), server.connections()), (2, 2), "{twist:?}");
    }
}

#[tokio::test]
async fn a_mail_that_may_be_on_its_way_is_not_sent_again_at_once() {
    let usual = (At::Content, Twist::Late(Duration::ZERO), 1);
    let server = Server::start(Plan { twists: vec![usual, (At::Content, Twist::Drop, 1)], ..Plan::default() }).await;
    let mailer = mailer(smtp(&server));
    send(&mailer, "a@example.com").await.unwrap();
    let message = reset(&mailer, "b@example.com");
    let error = mailer.deliver(&message).await.unwrap_err();
    assert_eq!(error.to_string(), "not delivered (content): the connection was lost before the server answered");
    assert_eq!((server.mails().len(), server.connections()), (1, 1));
    mailer.deliver(&message).await.unwrap();
    assert_eq!((server.mails().len(), server.connections()), (2, 2));
}

#[tokio::test]
async fn a_late_answer_to_one_mail_is_never_the_answer_to_the_next() {
    let plan = Plan::twisted(At::Rcpt, Twist::Late(SHORT * 2), 1);
    let server = Server::start(plan).await;
    let mailer = quick(&server);
    let message = reset(&mailer, "late@example.com");
    assert!(!mailer.deliver(&message).await.unwrap_err().is_permanent());
    tokio::time::sleep(SHORT * 2).await;
    send(&mailer, "next@example.com").await.unwrap();
    mailer.deliver(&message).await.unwrap();
    let to: Vec<String> = server.mails().into_iter().map(|mail| mail.to).collect();
    assert_eq!(to, ["RCPT TO:<next@example.com>", "RCPT TO:<late@example.com>"]);
}

/// Whenever the one answer too many comes: DATA wants a 354, and gets the 250 of a step before.
#[tokio::test]
async fn an_answer_too_many_is_not_taken_for_that_of_the_next_mail() {
    for _ in 0..20 {
        let server = Server::start(Plan::twisted(At::Taken, Twist::Say("250 2.0.0 again"), 1)).await;
        let mailer = mailer(smtp(&server));
        send(&mailer, "a@example.com").await.unwrap();
        let next = reset(&mailer, "b@example.com");
        let sent = mailer.deliver(&next).await;
        assert_eq!(sent.is_ok(), server.mails().len() == 2, "{sent:?}");
        assert!(sent.is_ok() || !sent.unwrap_err().is_permanent());
        mailer.deliver(&next).await.unwrap();
        assert_eq!(server.mails().len(), 2);
    }
}

#[tokio::test]
async fn a_delivery_that_nobody_waits_for_any_more_leaves_no_half_connection_behind() {
    let plan = Plan { twists: vec![(At::Data, Twist::Hang, 1)], ..Plan::default() };
    let server = Server::start(plan).await;
    let mailer = mailer(smtp(&server));
    assert!(tokio::time::timeout(SHORT, send(&mailer, "a@example.com")).await.is_err());
    send(&mailer, "b@example.com").await.unwrap();
    assert_eq!((server.mails().len(), server.connections()), (1, 2));
}

#[tokio::test]
async fn a_server_that_says_too_much_is_cut_short_before_it_is_all_in_memory() {
    let endless: &'static str = Box::leak("2".repeat(1_000_000).into_boxed_str());
    let lines: &'static str = Box::leak("250-mail.test\r\n".repeat(100_000).into_boxed_str());
    for (at, answer) in [(At::Greeting, endless), (At::Ehlo, lines), (At::Rcpt, endless)] {
        let server = Server::start(Plan::twisted(at, Twist::Say(answer), 1)).await;
        let mailer = mailer(smtp(&server));
        let error = send(&mailer, "a@example.com").await.unwrap_err();
        assert!(!error.is_permanent() && error.to_string().contains("does not end"), "{error}");
        send(&mailer, "a@example.com").await.unwrap();
    }
}

#[tokio::test]
async fn what_is_kept_of_a_failure_tells_neither_token_nor_address() {
    const QUOTES: &str = "554 5.7.1 bad link https://app.vantage.example/reset?token=uZ3v-Token_0123456789abcdefghijklmnopqrstuvwxyz for a@example.com";
    const UNKNOWN: &str = "550 5.1.1 <A@Example.com>: no such user";
    for (at, answer, kept) in [
        (At::Content, QUOTES, "never to be delivered (content): 554 5.7.1"),
        (At::Rcpt, UNKNOWN, "never to be delivered (recipient): 550 5.1.1 <***>: no such user"),
    ] {
        let server = Server::start(Plan::twisted(at, Twist::Say(answer), 1)).await;
        let error = send(&mailer(smtp(&server)), "a@example.com").await.unwrap_err();
        assert_eq!(error.to_string(), kept);
    }
    let message = reset(&quick(&Server::start(Plan::default()).await), "a@example.com");
    let shown = format!("{message:?}");
    assert!(!shown.contains(TOKEN) && !shown.contains("example.com"), "{shown}");
}

/// What a worker does, with a queue that is a list: through a night of faults each mail arrives once.
#[tokio::test]
async fn through_a_row_of_faults_each_mail_arrives_exactly_once() {
    let twists = vec![
        (At::Greeting, Twist::Say("421 4.3.2 later"), 3),
        (At::Ehlo, Twist::Drop, 1),
        (At::Mail, Twist::Say("451 4.3.0 later"), 2),
        (At::Rcpt, Twist::Say("450 4.2.0 greylisted"), 5),
        (At::Data, Twist::Drop, 2),
        (At::MidContent, Twist::Drop, 1),
        (At::Content, Twist::Say("452 4.3.1 full"), 3),
        (At::Taken, Twist::Drop, 4),
        (At::Noop, Twist::Drop, 2),
    ];
    let server = Server::start(Plan { twists, ..Plan::default() }).await;
    let mailer = mailer(smtp(&server));
    let mut queue: Vec<(Message, u32, Timestamp)> =
        (0..10).map(|n| (reset(&mailer, &format!("user{n}@example.com")), 0, NOW)).collect();
    let mut now = NOW;
    while !queue.is_empty() {
        let (message, failures, due) = queue.remove(0);
        now = now.max(due);
        match mailer.deliver(&message).await {
            Ok(()) => {}
            Err(error) => {
                assert!(!error.is_permanent(), "{error}");
                let next = next_attempt(failures + 1, now, message.ends_at()).expect("tried again within its hour");
                queue.push((message, failures + 1, next));
            }
        }
    }
    let mut to: Vec<String> = server.mails().into_iter().map(|mail| mail.to).collect();
    to.sort();
    assert_eq!(to, (0..10).map(|n| format!("RCPT TO:<user{n}@example.com>")).collect::<Vec<_>>());
}
