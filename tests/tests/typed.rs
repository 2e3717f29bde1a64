//! `#[task]` and the signatures it makes: what fits together, what a caller may
//! leave out, and what the compiler says when something does not fit.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use canvas::prelude::*;
use canvas::{Builder, ExceptionInfo, Running, Task, TaskOptions};
use canvas_tests::support::{eventually, failure, value};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What does not compile, and what is said then. `TRYBUILD=overwrite` writes
/// the files anew.
#[test]
fn what_does_not_fit_is_said_in_terms_of_the_users_types() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

#[task(name = "add")]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task(name = "double")]
async fn double(x: i64) -> i64 {
    x * 2
}

#[task(name = "total")]
async fn total(numbers: Vec<i64>) -> i64 {
    numbers.iter().sum()
}

/// Meant as a callback: its first argument is a result.
#[task(name = "show")]
fn show(#[prev] number: i64, unit: String) -> String {
    format!("{number} {unit}")
}

#[task(name = "alarm", errback)]
async fn alarm(ctx: &Ctx, request: Value, error: Value, trace: Option<String>, to: String) {
    let kind = ExceptionInfo::from_result(&error).exc_type;
    let told = json!([
        to,
        ctx.id(),
        request["id"],
        request["task"],
        kind,
        trace.is_some()
    ]);
    TOLD.lock().unwrap().push(told);
}

static TOLD: Mutex<Vec<Value>> = Mutex::new(Vec::new());

fn builder() -> Builder {
    Canvas::builder()
        .task::<add>()
        .task::<double>()
        .task::<total>()
        .task::<show>()
        .task::<alarm>()
}

async fn start(builder: Builder) -> (Canvas, Running) {
    let app = builder.build().unwrap();
    let worker = app.worker().start().await.unwrap();
    (app, worker)
}

/// The message that a call fails with.
async fn refused(app: &Canvas, call: Signature) -> String {
    let result = app.apply(call).await.unwrap();
    let error = failure(&result).await;
    assert_eq!(
        (&*error.exc_module, &*error.exc_type),
        ("builtins", "TypeError")
    );
    error.message()
}

mod compositions {
    use super::*;

    #[tokio::test]
    async fn what_fits_composes_and_gives_a_value_of_its_type() {
        let (app, worker) = start(builder()).await;
        let chain: Sig<(), i64> = add::s(1, 2).then(double::partial());
        assert_eq!(chain.to_string(), "add(1, 2) | double()");
        let six: i64 = chain.apply(&app).await.unwrap().get().await.unwrap();
        assert_eq!(six, 6);
        let piped: Sig<(), String> = add::s(1, 2) | add::partial(3) | show::s("km");
        assert_eq!(piped.to_string(), "add(1, 2) | add(3) | show('km')");
        let shown: String = piped.apply(&app).await.unwrap().get().await.unwrap();
        assert_eq!(shown, "6 km");
        let group: Sig<(), Vec<i64>> = typed_group((1..=3).map(|n| add::s(n, n)));
        let values: Vec<i64> = group
            .clone()
            .apply(&app)
            .await
            .unwrap()
            .get()
            .await
            .unwrap();
        assert_eq!(values, [2, 4, 6]);
        let upgraded: Sig<(), i64> = group.then(total::partial());
        assert!(upgraded.to_string().starts_with("chord("), "{upgraded}");
        assert_eq!(upgraded.apply(&app).await.unwrap().get().await.unwrap(), 12);
        worker.stop().await;
    }

    #[tokio::test]
    async fn a_chord_can_be_fed_by_a_step_before_it() {
        let (app, worker) = start(builder()).await;
        let four_times = double::partial() | double::partial();
        let fed: Sig<i64, i64> = typed_chord([double::partial(), four_times], total::partial());
        let whole: Sig<(), i64> = add::s(1, 2) | fed;
        assert_eq!(
            whole.apply(&app).await.unwrap().get().await.unwrap(),
            6 + 12
        );
        worker.stop().await;
    }

    #[tokio::test]
    async fn a_step_with_all_its_arguments_takes_no_result() {
        let (app, worker) = start(builder()).await;
        let chain: Sig<(), i64> = add::s(1, 2).then_si(double::s(4));
        assert_eq!(chain.apply(&app).await.unwrap().get().await.unwrap(), 8);
        let immutable = Signature::from(add::si(1, 2));
        assert!(immutable.immutable);
        worker.stop().await;
    }

    #[tokio::test]
    async fn a_callback_takes_the_result_and_the_type_stays() {
        let (app, worker) = start(builder()).await;
        let linked: Sig<(), i64> = add::s(1, 2).link(show::s("m"));
        let result = linked.apply(&app).await.unwrap();
        assert_eq!(result.get().await.unwrap(), 3);
        let children = result.as_inner().children().await.unwrap();
        assert_eq!(value(&children[0]).await, "3 m");
        worker.stop().await;
    }

    #[test]
    fn a_typed_signature_is_the_untyped_one_underneath() {
        let typed = add::s(1, 2)
            .queue("q")
            .priority(3)
            .countdown(Duration::from_secs(1));
        let untyped = Signature::new("add").args([1, 2]);
        let untyped = untyped
            .queue("q")
            .priority(3)
            .countdown(Duration::from_secs(1));
        assert_eq!(*typed.as_inner(), untyped);
        assert_eq!(Signature::from(typed.clone()), typed.into_inner());
        let foreign = Sig::<i64, String>::from_signature(Signature::new("python.show"));
        let whole: Sig<(), String> = add::s(1, 2) | foreign;
        assert_eq!(whole.to_string(), "add(1, 2) | python.show()");
        let open: Signature = Signature::from(add::s(1, 2)) | double::partial();
        assert_eq!(open.to_string(), "add(1, 2) | double()");
    }
}

mod names {
    use super::*;

    /// A task without a name of its own.
    #[task]
    async fn unnamed() {}

    #[task(name = "some.other-name")]
    async fn named() {}

    #[task]
    async fn r#type(r#ref: i64) -> i64 {
        r#ref
    }

    #[test]
    fn a_task_is_called_after_its_path_or_as_it_says() {
        assert_eq!(unnamed::name(), "typed.names.unnamed");
        assert_eq!(named::name(), "some.other-name");
        assert_eq!(r#type::name(), "typed.names.type");
        assert_eq!(Task::name(&named::default()), "some.other-name");
        assert_eq!(unnamed::s().as_inner().task, "typed.names.unnamed");
    }

    #[tokio::test]
    async fn the_function_stays_what_it_was() {
        assert_eq!(add(1, 2).await, 3);
        assert_eq!(show(3, "m".to_owned()), "3 m");
    }

    #[tokio::test]
    async fn raw_names_are_plain_to_callers() {
        let (app, worker) = start(Canvas::builder().task::<r#type>()).await;
        let call = Signature::new("typed.names.type").kwarg("ref", 4);
        assert_eq!(value(&app.apply(call).await.unwrap()).await, 4);
        worker.stop().await;
    }

    mod elsewhere {
        /// Refers to the core crate, as a library that does not want the facade.
        #[canvas::task(name = "core.only", crate = canvas_core)]
        pub(super) async fn core_only(x: u8) -> u8 {
            x
        }
    }

    #[test]
    fn the_expansion_finds_its_names_where_it_is_told() {
        let signature: canvas_core::Sig<(), u8> = elsewhere::core_only::s(1);
        assert_eq!(signature.to_string(), "core.only(1)");
    }
}

mod arguments {
    use super::*;

    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    struct Point {
        x: i64,
        y: i64,
    }

    #[task(name = "place")]
    async fn place(
        at: Point,
        label: Option<String>,
        #[default] scale: i64,
        #[default(vec![1, 2])] weights: Vec<i64>,
        #[default] note: Option<String>,
    ) -> Value {
        json!([at.x + at.y, label, scale, weights, note])
    }

    fn call() -> Signature {
        Signature::new("place")
    }

    #[tokio::test]
    async fn arguments_come_as_python_callers_send_them() {
        let (app, worker) = start(Canvas::builder().task::<place>()).await;
        let at = || json!({"x": 1, "y": 2});
        let calls = [
            (
                call().args([at(), json!("a")]),
                json!([3, "a", 0, [1, 2], null]),
            ),
            (
                call().args([at(), json!("a"), json!(5)]),
                json!([3, "a", 5, [1, 2], null]),
            ),
            (
                call().arg(at()).kwarg("label", "a"),
                json!([3, "a", 0, [1, 2], null]),
            ),
            (
                call().kwarg("label", Value::Null).kwarg("at", at()),
                json!([3, null, 0, [1, 2], null]),
            ),
            (
                call()
                    .args([at(), json!("a")])
                    .kwarg("note", "n")
                    .kwarg("weights", json!([])),
                json!([3, "a", 0, [], "n"]),
            ),
            (
                call().args([at(), json!("a"), json!(1), json!([9]), json!(null)]),
                json!([3, "a", 1, [9], null]),
            ),
        ];
        for (call, want) in calls {
            let shown = call.to_string();
            assert_eq!(
                value(&app.apply(call).await.unwrap()).await,
                want,
                "{shown}"
            );
        }
        worker.stop().await;
    }

    #[tokio::test]
    async fn an_argument_that_does_not_fit_is_named() {
        let (app, worker) = start(Canvas::builder().task::<place>()).await;
        let at = || json!({"x": 1, "y": 2});
        let calls = [
            (call(), "place() missing required argument: 'at'"),
            (
                call().arg(at()),
                "place() missing required argument: 'label'",
            ),
            (
                call().args([at(), json!(7)]),
                "place() argument 'label' cannot be 7",
            ),
            (
                call().args([json!([]), json!("a")]),
                "place() argument 'at' cannot be []",
            ),
            (
                call().args([json!({"x": 1}), json!("a")]),
                "missing field `y`",
            ),
            (
                call().args([at(), json!("a"), json!("five")]),
                "argument 'scale' cannot be 'five'",
            ),
            (
                call().args([at(), json!("a")]).kwarg("color", 1),
                "unexpected keyword argument 'color'; it takes at, label, scale, weights, note",
            ),
            (
                call().args([at(), json!("a")]).kwarg("at", 1),
                "multiple values for argument 'at'",
            ),
            (
                call().args([at(), json!("a"), json!(1), json!([]), json!(null), json!(6)]),
                "place() takes 5 positional arguments but 6 were given",
            ),
        ];
        for (call, want) in calls {
            let shown = call.to_string();
            let message = refused(&app, call).await;
            assert!(message.contains(want), "{shown}: {message}");
        }
        worker.stop().await;
    }

    #[tokio::test]
    async fn a_result_of_the_wrong_type_is_refused_by_whoever_gets_it() {
        let (app, worker) = start(builder()).await;
        let chain = Signature::from(add::s(1, 2)) | total::partial();
        let message = refused(&app, chain).await;
        assert!(
            message.contains("total() argument 'numbers' cannot be 3"),
            "{message}"
        );
        worker.stop().await;
    }

    #[tokio::test]
    async fn what_has_a_default_is_set_by_name() {
        let (app, worker) = start(Canvas::builder().task::<place>()).await;
        let at = Point { x: 1, y: 2 };
        let signature = place::s(at, Some("a".to_owned())).kwarg("scale", 7);
        let have = signature.apply(&app).await.unwrap().get().await.unwrap();
        assert_eq!(have, json!([3, "a", 7, [1, 2], null]));
        worker.stop().await;
    }

    #[test]
    fn texts_are_taken_as_whatever_turns_into_one() {
        let same = [
            show::partial("m"),
            show::partial("m".to_owned()),
            show::s("m"),
        ];
        assert!(
            same.iter()
                .all(|signature| signature.to_string() == "show('m')")
        );
    }

    #[test]
    fn partial_and_prev_leave_the_first_argument_open() {
        let partial: Sig<i64, i64> = add::partial(2);
        assert_eq!(partial.to_string(), "add(2)");
        let callback: Sig<i64, String> = show::s("m");
        assert_eq!(callback, show::partial("m"));
        assert_eq!(show::si(1, "m").to_string(), "show(1, 'm')");
    }
}

mod running {
    use super::*;

    #[task(name = "who")]
    async fn who(ctx: &Ctx, greeting: String) -> String {
        format!("{greeting} {} {}", ctx.request().task, ctx.retries())
    }

    #[task(name = "owned")]
    async fn owned(ctx: Ctx, x: i64) -> (String, i64) {
        (ctx.id().to_string(), x)
    }

    #[tokio::test]
    async fn the_context_is_given_and_is_no_argument() {
        let (app, worker) = start(Canvas::builder().task::<who>().task::<owned>()).await;
        let said = who::s("hello").apply(&app).await.unwrap();
        assert_eq!(said.get().await.unwrap(), "hello who 0");
        let result = owned::s(1).set("task_id", "me").apply(&app).await.unwrap();
        assert_eq!(result.get().await.unwrap(), ("me".to_owned(), 1));
        let message = refused(&app, Signature::new("who").kwarg("ctx", 1).arg("x")).await;
        assert!(
            message.contains("unexpected keyword argument 'ctx'"),
            "{message}"
        );
        worker.stop().await;
    }

    /// Waits, on its thread, for what another task sends.
    #[task(name = "waits")]
    fn waits() -> String {
        let (sender, receiver) = mpsc::channel();
        *PIPE.lock().unwrap() = Some(sender);
        receiver.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    static PIPE: Mutex<Option<mpsc::Sender<String>>> = Mutex::new(None);

    #[task(name = "sends")]
    async fn sends(text: String) {
        eventually("the other task waits", async || {
            PIPE.lock().unwrap().is_some()
        })
        .await;
        PIPE.lock().unwrap().take().unwrap().send(text).unwrap();
    }

    /// On one thread, the second task could not run if the first held it.
    #[tokio::test]
    async fn a_blocking_task_does_not_hold_up_the_others() {
        let builder = Canvas::builder().task::<waits>().task::<sends>();
        let app = builder.build().unwrap();
        let worker = app.worker().concurrency(2).start().await.unwrap();
        let waiting = waits::s().apply(&app).await.unwrap();
        sends::s("now")
            .apply(&app)
            .await
            .unwrap()
            .get()
            .await
            .unwrap();
        assert_eq!(waiting.get().await.unwrap(), "now");
        worker.stop().await;
    }

    #[task(name = "refused")]
    async fn refused_by_io(fails: bool) -> std::io::Result<u8> {
        if fails {
            return Err(std::io::Error::other("disk on fire"));
        }
        Ok(1)
    }

    #[task(name = "asks")]
    async fn asks(fails: bool) -> canvas::Result<Option<u8>> {
        if fails {
            return Err(canvas::Error::Config("no".to_owned()));
        }
        Ok(None)
    }

    #[task(name = "picks")]
    fn picks(text: String) -> Result<i64, TaskError> {
        Ok(text.parse::<i64>()?)
    }

    #[tokio::test]
    async fn a_result_under_any_path_is_a_value_or_an_error() {
        let builder = Canvas::builder()
            .task::<refused_by_io>()
            .task::<asks>()
            .task::<picks>();
        let (app, worker) = start(builder).await;
        let one: u8 = refused_by_io::s(false)
            .apply(&app)
            .await
            .unwrap()
            .get()
            .await
            .unwrap();
        assert_eq!(one, 1);
        let none: Option<u8> = asks::s(false)
            .apply(&app)
            .await
            .unwrap()
            .get()
            .await
            .unwrap();
        assert_eq!(none, None);
        let number: i64 = picks::s("12")
            .apply(&app)
            .await
            .unwrap()
            .get()
            .await
            .unwrap();
        assert_eq!(number, 12);
        let table = [
            (
                Signature::from(refused_by_io::s(true)),
                "Error",
                "disk on fire",
            ),
            (asks::s(true).into(), "Error", "configuration: no"),
            (
                picks::s("x").into(),
                "ParseIntError",
                "invalid digit found in string",
            ),
        ];
        for (call, kind, message) in table {
            let error = failure(&app.apply(call).await.unwrap()).await;
            assert_eq!(
                (&*error.exc_type, error.message()),
                (kind, message.to_owned())
            );
        }
        worker.stop().await;
    }

    #[task(name = "pair")]
    async fn pair() -> (i64, Option<String>) {
        (1, None)
    }

    #[task(name = "nothing")]
    async fn nothing() {}

    #[tokio::test]
    async fn any_value_that_has_a_json_form_is_a_result() {
        let (app, worker) = start(Canvas::builder().task::<pair>().task::<nothing>()).await;
        let typed = pair::s().apply(&app).await.unwrap();
        assert_eq!(typed.get().await.unwrap(), (1, None));
        assert_eq!(value(typed.as_inner()).await, json!([1, null]));
        nothing::s().apply(&app).await.unwrap().get().await.unwrap();
        worker.stop().await;
    }

    #[tokio::test]
    async fn an_errback_is_given_the_request_the_error_and_where_it_came_from() {
        let (app, worker) = start(builder().task::<picks>()).await;
        assert_eq!(alarm::s("ops").to_string(), "alarm('ops')");
        let call = Signature::from(picks::s("x"))
            .task_id("failed")
            .link_error(alarm::s("ops"));
        let result = app.apply(call).await.unwrap();
        failure(&result).await;
        worker.stop().await;
        let told = json!(["ops", "failed", "failed", "picks", "ParseIntError", true]);
        assert_eq!(*TOLD.lock().unwrap(), [told]);
    }
}

mod options {
    use super::*;

    #[task(
        name = "full",
        queue = "mail",
        priority = 3,
        ignore_result,
        track_started,
        acks_late = false,
        time_limit = 60,
        soft_time_limit = "50s",
        expires = "1h",
        max_retries = none,
        retry_delay = 2.5,
        autoretry_for(IoError, "ValueError"),
        dont_autoretry_for(Fatal),
        retry_backoff = 2,
        retry_backoff_max = 30,
        retry_jitter = false
    )]
    async fn full() {}

    #[task(name = "plain")]
    async fn plain() {}

    #[test]
    fn options_are_those_of_the_attribute_and_else_the_defaults() {
        let options = full::default().options();
        assert_eq!(options.queue.as_deref(), Some("mail"));
        assert_eq!((options.priority, options.ignore_result), (Some(3), true));
        assert_eq!(
            (options.track_started, options.acks_late),
            (Some(true), Some(false))
        );
        assert_eq!(options.time_limit, Some(Duration::from_secs(60)));
        assert_eq!(options.soft_time_limit, Some(Duration::from_secs(50)));
        assert_eq!(options.expires, Some(Duration::from_secs(3_600)));
        let retry = options.retry;
        assert_eq!(
            (retry.max_retries, retry.delay),
            (None, Duration::from_millis(2_500))
        );
        assert!(retry.is_automatic("IoError") && retry.is_automatic("ValueError"));
        assert!(!retry.is_automatic("Fatal") && !retry.is_automatic("Other"));
        assert_eq!(retry.automatic_delay(3), Duration::from_secs(16));
        assert_eq!(retry.automatic_delay(9), Duration::from_secs(30));
        assert_eq!(plain::default().options(), TaskOptions::default());
        assert!(alarm::default().options().errback);
    }

    #[tokio::test]
    async fn a_call_may_say_otherwise() {
        let app = Canvas::builder().task::<full>().build().unwrap();
        app.apply(full::s()).await.unwrap();
        app.apply(full::s().queue("other").priority(1))
            .await
            .unwrap();
        for (queue, priority) in [("mail", 3), ("other", 1)] {
            assert_eq!(app.broker().len(queue).await.unwrap(), 1);
            let plan = app.explain(full::s().set("queue", queue)).unwrap();
            assert_eq!(plan.messages[0].queue, queue);
            let spec = canvas::broker::ConsumeSpec {
                queues: vec![queue.into()],
                prefetch: 1,
                lease: Duration::from_secs(60),
            };
            let mut consumer = app.broker().consume(spec).await.unwrap();
            let message = consumer.next().await.unwrap().unwrap().message;
            assert_eq!(message.properties.priority, Some(priority));
            assert_eq!(message.headers.ignore_result, Some(true));
            assert!(message.headers.expires.is_some());
        }
    }

    #[test]
    fn a_task_is_found_by_its_name() {
        let app = builder().build().unwrap();
        let names: Vec<&str> = app.tasks().names().collect();
        assert_eq!(names, ["add", "alarm", "double", "show", "total"]);
        assert!(app.tasks().get("add").is_some() && app.tasks().get("nope").is_none());
    }
}
