//! The canvases of `capture.py`, built here, in its order and under its names.

use std::time::Duration;

use canvas_core::{
    Config, Kwargs, Options, Shape, Signature, StampingVisitor, Stamps, chain, chord, chunks,
    format_time, group, map, starmap,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

/// One canvas, and how it is applied.
pub(crate) struct Canvas {
    /// The name in `capture.py`.
    pub(crate) name: &'static str,
    /// What Celery's `signatures.json` is compared with.
    pub(crate) canvas: Signature,
    /// How it is applied, where that is not `sig.apply_async()`.
    pub(crate) applied: Option<Applied>,
    /// A setting that differs from its default.
    pub(crate) setting: Option<fn(&mut Config)>,
}

/// What is given when a canvas is applied.
pub(crate) struct Applied {
    /// The canvas with the options that are given.
    pub(crate) canvas: Signature,
    /// Positional arguments.
    pub(crate) args: Vec<Value>,
    /// Keyword arguments.
    pub(crate) kwargs: Kwargs,
}

/// Captures that have no counterpart here, and why.
pub(crate) const PYTHON_ONLY: [(&str, &str); 1] = [(
    "arg_large_int",
    "a JSON number here has 64 bits: a larger integer cannot be given as one",
)];

/// The "now" of `capture.py`.
pub(crate) fn t0() -> DateTime<Utc> {
    "2026-01-02T03:04:05.678901Z".parse().unwrap()
}

/// All canvases.
pub(crate) fn canvases() -> Vec<Canvas> {
    let mut all = tasks();
    all.extend(options());
    all.extend(callbacks());
    all.extend(chains());
    all.extend(groups());
    all.extend(compositions());
    all.extend(chords());
    all.extend(maps());
    all.extend(stamps());
    all.extend(values());
    all
}

fn canvas(name: &'static str, canvas: Signature) -> Canvas {
    Canvas {
        name,
        canvas,
        applied: None,
        setting: None,
    }
}

impl Canvas {
    fn applied(&mut self) -> &mut Applied {
        let canvas = self.canvas.clone();
        self.applied.get_or_insert_with(|| Applied {
            canvas,
            args: Vec::new(),
            kwargs: Kwargs::new(),
        })
    }

    /// `sig.apply_async(args)`
    fn with_args<const N: usize>(mut self, args: [i64; N]) -> Self {
        self.applied().args = args.map(Value::from).to_vec();
        self
    }

    /// `sig.apply_async(kwargs=…)`
    fn with_kwarg(mut self, key: &str, value: i64) -> Self {
        self.applied().kwargs.insert(key.to_owned(), value.into());
        self
    }

    /// `sig.apply_async(**options)`
    fn with(mut self, change: impl FnOnce(Signature) -> Signature) -> Self {
        let applied = self.applied();
        applied.canvas = change(applied.canvas.clone());
        self
    }
}

fn t(name: &str) -> Signature {
    Signature::new(format!("tasks.{name}"))
}

fn add<const N: usize>(args: [i64; N]) -> Signature {
    t("add").args(args)
}

fn mul<const N: usize>(args: [i64; N]) -> Signature {
    t("mul").args(args)
}

fn tsum() -> Signature {
    t("tsum")
}

fn identity() -> Signature {
    t("identity")
}

fn double() -> Signature {
    t("double")
}

fn fail() -> Signature {
    t("fail")
}

fn on_error() -> Signature {
    t("on_error")
}

fn noop() -> Signature {
    t("noop")
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn kwargs<const N: usize>(pairs: [(&str, i64); N]) -> Kwargs {
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect()
}

fn opts<const N: usize>(pairs: [(&str, Value); N]) -> Options {
    let mut options = Options::new();
    options.extend(pairs);
    options
}

/// A time as kombu puts it into JSON.
fn datetime(text: &str) -> Value {
    json!({ "__type__": "datetime", "__value__": text })
}

fn frozen(mut canvas: Signature) -> Signature {
    canvas.freeze().unwrap();
    canvas
}

/// `signature(dict(canvas))`
fn reread(canvas: Signature) -> Signature {
    Signature::from_value(canvas.to_value()).unwrap()
}

/// A chord whose body is still to come.
fn without_body(mut canvas: Signature) -> Signature {
    if let Shape::Chord(parts) = &mut canvas.shape {
        parts.body = None;
    }
    canvas
}

/// Stamps every task with its own name.
struct HeaderVisitor;

impl StampingVisitor for HeaderVisitor {
    fn on_signature(&mut self, task: &Signature) -> Stamps {
        Stamps::from_iter([
            ("stamped_by".to_owned(), json!(task.task)),
            ("stamped_headers".to_owned(), json!(["stamped_by"])),
        ])
    }
}

fn tasks() -> Vec<Canvas> {
    vec![
        canvas("task_args", add([2, 2])),
        canvas("task_kwargs", add([]).kwarg("x", 2).kwarg("y", 3)),
        canvas("task_args_kwargs", add([2]).kwarg("y", 3).kwarg("z", 4)),
        canvas("task_no_args", identity()).with_args([7]),
        canvas("task_ignore_result_task", noop()),
        canvas("task_immutable", add([2, 2]).immutable()),
        canvas("task_immutable_ignores_partial", add([2, 2]).immutable())
            .with_args([9])
            .with_kwarg("z", 1)
            .with(|sig| sig.priority(1)),
        canvas("task_partial", add([2])).with_args([1]),
        canvas("task_partial_kwargs", add([2])).with_kwarg("y", 5),
        canvas("task_partial_kwargs_override", add([2, 3]).kwarg("z", 1)).with_kwarg("z", 5),
        canvas("task_partial_unapplied", add([2])),
        canvas(
            "task_signature_method",
            add([2, 2]).kwarg("z", 1).countdown(seconds(10)),
        ),
        canvas("task_signature_by_name", add([2, 2])),
        canvas(
            "task_unregistered",
            Signature::new("other.task").arg(1).kwarg("k", "v"),
        ),
        canvas("task_from_dict", reread(add([2, 2]))),
        canvas("task_from_dict_extra_keys", {
            let mut dict = add([2, 2]).to_value();
            dict["extra"] = json!(1);
            Signature::from_value(dict).unwrap()
        }),
        canvas(
            "task_clone_args",
            add([2]).clone_with(&[json!(1)], &kwargs([]), &opts([])),
        ),
        canvas(
            "task_clone_kwargs",
            add([2, 2])
                .kwarg("z", 1)
                .clone_with(&[], &kwargs([("z", 3)]), &opts([])),
        ),
        canvas(
            "task_clone_args_kwargs_options",
            add([2]).priority(1).clone_with(
                &[json!(1)],
                &kwargs([("z", 3)]),
                &opts([("priority", json!(5)), ("queue", json!("hi"))]),
            ),
        ),
        canvas(
            "task_clone_immutable",
            add([2, 2]).immutable().clone_with(
                &[json!(1)],
                &kwargs([("z", 3)]),
                &opts([("priority", json!(5))]),
            ),
        ),
        canvas(
            "task_replace_args",
            add([2, 2])
                .priority(3)
                .replace(Some(vec![json!(3), json!(4)]), None, None),
        ),
        canvas(
            "task_replace_all",
            add([2, 2]).replace(
                Some(vec![json!(3)]),
                Some(kwargs([("y", 4)])),
                Some(opts([("priority", json!(5))])),
            ),
        ),
        canvas("task_set_immutable", add([2, 2]).immutable()).with_args([9]),
        canvas("task_set_mutable", {
            let mut sig = add([2]).immutable();
            sig.set_immutable(false);
            sig
        })
        .with_args([9]),
    ]
}

fn options() -> Vec<Canvas> {
    let sum = || add([2, 2]);
    let hour = TimeDelta::hours(1);
    vec![
        canvas("opt_queue", sum().queue("hi")),
        canvas(
            "opt_exchange_routing_key",
            sum().set("exchange", "ex").set("routing_key", "rk"),
        ),
        canvas("opt_priority", sum().priority(7)),
        canvas("opt_countdown", sum().countdown(seconds(10))),
        canvas(
            "opt_countdown_float",
            sum().countdown(Duration::from_millis(500)),
        ),
        canvas("opt_countdown_zero", sum().countdown(Duration::ZERO)),
        canvas("opt_eta", sum().eta(t0() + hour)),
        canvas(
            "opt_eta_other_zone",
            sum().set("eta", datetime("2026-05-06T07:08:09+02:00")),
        ),
        canvas(
            "opt_eta_naive",
            sum().set("eta", datetime("2026-05-06T07:08:09")),
        ),
        canvas(
            "opt_eta_string",
            sum().set("eta", "2026-05-06T07:08:09+00:00"),
        ),
        canvas("opt_expires_seconds", sum().expires_in(seconds(60))),
        canvas(
            "opt_expires_datetime",
            sum().set("expires", datetime(&format_time(t0() + hour))),
        ),
        canvas(
            "opt_expires_past",
            sum().set("expires", datetime(&format_time(t0() - hour))),
        ),
        canvas(
            "opt_eta_and_expires",
            sum()
                .eta(t0() + TimeDelta::minutes(1))
                .set("expires", datetime(&format_time(t0() + hour))),
        ),
        canvas(
            "opt_time_limits",
            sum().time_limit(seconds(10)).soft_time_limit(seconds(5)),
        ),
        canvas("opt_headers", sum().header("x", 1)),
        canvas(
            "opt_headers_override_protocol",
            sum().header("shadow", "from-headers").header("x", [1]),
        ),
        canvas("opt_ignore_result_true", sum().ignore_result(true)),
        canvas("opt_ignore_result_false", noop().ignore_result(false)),
        canvas("opt_shadow", sum().set("shadow", "alias")),
        canvas(
            "opt_retry_policy",
            sum().set("retry", true).set(
                "retry_policy",
                json!({
                    "max_retries": 3, "interval_start": 0,
                    "interval_step": 0.2, "interval_max": 0.2,
                }),
            ),
        ),
        canvas("opt_retries", sum().set("retries", 3)),
        canvas("opt_serializer_json", sum().set("serializer", "json")),
        canvas("opt_serializer_pickle", sum().set("serializer", "pickle")),
        canvas("opt_compression", sum().set("compression", "gzip")),
        canvas("opt_delivery_mode", sum().set("delivery_mode", "transient")),
        canvas("opt_unknown", sum().set("foo", "bar")),
        canvas(
            "opt_none_values",
            sum()
                .set("queue", Value::Null)
                .set("priority", Value::Null)
                .set("countdown", Value::Null),
        ),
        canvas("opt_task_id", sum().task_id("my-id")),
        canvas(
            "opt_root_parent",
            sum()
                .set("root_id", "my-root")
                .set("parent_id", "my-parent"),
        ),
        canvas("opt_reply_to", sum().set("reply_to", "my-reply-queue")),
        canvas(
            "opt_group_id",
            sum().set("group_id", "my-group").set("group_index", 3),
        ),
        canvas("opt_at_apply", sum().priority(1).queue("lo")).with(|sig| {
            sig.priority(9)
                .countdown(seconds(30))
                .header("x", 1)
                .set("shadow", "s")
                .task_id("my-id")
        }),
        canvas(
            "opt_many",
            sum()
                .queue("hi")
                .priority(3)
                .countdown(seconds(5))
                .expires_in(seconds(60))
                .time_limit(seconds(10))
                .soft_time_limit(seconds(5))
                .set("shadow", "s")
                .header("x", 1)
                .ignore_result(true)
                .set("foo", "bar"),
        ),
        canvas("freeze", frozen(sum().task_id("my-id"))),
        canvas("freeze_generated_id", frozen(sum())),
        canvas(
            "freeze_all",
            frozen(
                sum()
                    .task_id("my-id")
                    .set("root_id", "r")
                    .set("parent_id", "p")
                    .set("group_id", "g")
                    .set("chord", tsum())
                    .set("group_index", 2),
            ),
        ),
    ]
}

fn callbacks() -> Vec<Canvas> {
    let sum = || add([2, 2]);
    let sums = || [add([1, 1]), add([2, 2])];
    let mut with_header = canvas(
        "link_error_of_chord_with_header",
        chord(sums(), tsum()).link_error(on_error()),
    );
    with_header.setting = Some(|config| config.task_allow_error_cb_on_chord_header = true);
    vec![
        canvas("link", sum().link(mul([8]))),
        canvas("link_two", sum().link(mul([8])).link(double())),
        canvas("link_same_twice", sum().link(mul([8])).link(mul([8]))),
        canvas("link_nested", sum().link(mul([8]).link(double()))),
        canvas("link_immutable", sum().link(noop().immutable())),
        canvas("link_option_bare", sum().set("link", mul([8]))),
        canvas(
            "link_option_list",
            sum().set("link", vec![mul([8]), double()]),
        ),
        // A link that is given when it is applied takes the place of its own.
        canvas("link_at_apply", sum().link(mul([8]))).with(|sig| sig.set("link", vec![double()])),
        canvas("link_chain", sum().link(mul([8]) | double())),
        canvas("link_group", sum().link(group([mul([8]), double()]))),
        canvas(
            "link_chord",
            sum().link(chord([mul([8]), double()], tsum())),
        ),
        canvas("link_error", fail().arg("x").link_error(on_error())),
        canvas(
            "link_error_two",
            fail()
                .arg("x")
                .link_error(on_error())
                .link_error(noop().immutable()),
        ),
        canvas("on_error", fail().arg("x").on_error(on_error())),
        canvas(
            "link_and_link_error",
            sum().link(mul([8])).link_error(on_error()),
        ),
        canvas("link_of_chain", (sum() | mul([8])).link(double())),
        canvas("link_of_chain_at_apply", sum() | mul([8]))
            .with(|sig| sig.link(double()).link_error(on_error())),
        canvas(
            "link_error_of_chain",
            (sum() | mul([8]) | fail()).link_error(on_error()),
        ),
        canvas(
            "on_error_of_chain",
            chain([sum(), mul([8])]).on_error(on_error()),
        ),
        canvas(
            "link_of_chain_then_or",
            (sum() | mul([8]))
                .link(noop().immutable())
                .link_error(on_error())
                | double(),
        ),
        canvas(
            "chain_into_linked_chain",
            add([1, 1])
                | (add([2]) | mul([8]))
                    .link(noop().immutable())
                    .link_error(on_error()),
        ),
        canvas("link_of_group", group(sums()).link(noop())),
        canvas("link_error_of_group", group(sums()).link_error(on_error())),
        canvas("link_of_chord", chord(sums(), tsum()).link(double())),
        canvas(
            "link_error_of_chord",
            chord(sums(), tsum()).link_error(on_error()),
        ),
        with_header,
        canvas(
            "link_error_of_nested_chord",
            chord([add([1, 1]), chord([add([2, 2])], tsum())], tsum()).link_error(on_error()),
        ),
        canvas("link_of_chord_at_apply", chord(sums(), tsum()))
            .with(|sig| sig.link(double()).link_error(on_error())),
        canvas(
            "link_of_chord_group_body_at_apply",
            chord(sums(), group([tsum(), tsum()])),
        )
        .with(|sig| sig.link(double()).link_error(on_error())),
        canvas(
            "link_error_of_chain_with_chord",
            (add([1, 1]) | group([add([2]), add([3])]) | tsum() | double()).link_error(on_error()),
        ),
    ]
}

fn chains() -> Vec<Canvas> {
    let none = chain::<Signature>;
    vec![
        canvas("chain_empty", none([].into())),
        canvas("chain_empty_list", none(Vec::new())),
        canvas("chain_one", chain([add([2, 2])])),
        canvas("chain_one_list", chain(vec![add([2, 2])])),
        canvas("chain_add_mul", chain([add([2, 2]), mul([8])])),
        canvas("chain_or", add([2, 2]) | mul([8])),
        canvas("chain_three_or", add([2, 2]) | mul([8]) | double()),
        canvas(
            "chain_five",
            chain([add([1, 1]), add([2]), mul([3]), double(), identity()]),
        ),
        canvas("chain_list", chain(vec![add([2, 2]), mul([8])])),
        canvas("chain_generator", chain((0..3).map(|i| add([i])))).with_args([10]),
        canvas(
            "chain_immutable",
            chain([
                add([1, 1]).immutable(),
                add([2, 2]).immutable(),
                noop().immutable(),
            ]),
        ),
        canvas("chain_partial", chain([add([2]), mul([8])]))
            .with_args([10])
            .with_kwarg("z", 1),
        canvas("chain_delay", chain([add([2]), mul([8])])).with_args([10]),
        canvas(
            "chain_or_chain",
            (add([1, 1]) | mul([2])) | (add([3]) | double()),
        ),
        canvas("task_or_chain", add([1, 1]) | (mul([2]) | add([3]))),
        canvas(
            "chain_of_chains",
            chain([chain([add([1, 1]), mul([2])]), chain([add([3]), double()])]),
        ),
        canvas(
            "chain_with_empty_chain",
            chain([add([1, 1]), none(Vec::new()), mul([2])]),
        ),
        canvas("chain_or_empty_chain", add([1, 1]) | none(Vec::new())),
        canvas(
            "chain_step_options",
            chain([
                add([1, 1]).queue("a"),
                mul([2]).queue("b").countdown(seconds(3)),
                double(),
            ]),
        ),
        canvas(
            "chain_options",
            (add([1, 1]) | mul([2]))
                .queue("hi")
                .priority(4)
                .task_id("last-id"),
        ),
        canvas("chain_apply_options", add([1, 1]) | mul([2])).with(|sig| {
            sig.queue("hi")
                .countdown(seconds(5))
                .task_id("last-id")
                .set("root_id", "r")
                .set("parent_id", "p")
        }),
        canvas(
            "chain_clone",
            (add([1, 1]) | mul([2])).clone_with(
                &[json!(5)],
                &kwargs([]),
                &opts([("priority", json!(2))]),
            ),
        ),
        canvas(
            "chain_freeze",
            frozen((add([1, 1]) | mul([2]) | double()).task_id("my-id")),
        ),
        canvas(
            "chain_links_inside",
            chain([
                add([1, 1]).link(noop().immutable()),
                mul([2]).on_error(on_error()),
            ]),
        ),
        canvas("chain_from_dict", reread(add([1, 1]) | mul([2]))),
    ]
}

fn groups() -> Vec<Canvas> {
    let none = || group::<Signature>([]);
    let no_steps = || chain::<Signature>([]);
    let pairs = || (0..3).map(|i| add([i, i]));
    vec![
        canvas("group_empty", none()),
        canvas("group_empty_list", group::<Signature>(Vec::new())),
        canvas("group_one", group([add([2, 2])])),
        canvas("group_one_list", group(vec![add([2, 2])])),
        canvas("group_two", group([add([2, 2]), add([4, 4])])),
        canvas(
            "group_list",
            group(vec![add([2, 2]), mul([4, 4]), identity().arg(5)]),
        ),
        canvas("group_generator", group(pairs())),
        canvas(
            "group_partial",
            group([add([2]), mul([4, 4]).immutable(), double()]),
        )
        .with_args([10]),
        canvas(
            "group_options",
            group([add([2, 2]), add([4, 4])]).queue("hi").priority(3),
        ),
        canvas(
            "group_apply_options",
            group([add([2, 2]), add([4, 4]).queue("own")]),
        )
        .with(|sig| sig.queue("hi").countdown(seconds(5)).task_id("my-group")),
        canvas(
            "group_nested",
            group([group([add([1, 1]), add([2, 2])]), add([3, 3])]),
        ),
        canvas(
            "group_nested_middle",
            group([
                add([1, 1]),
                group([add([2, 2]), group([add([3, 3]), add([4, 4])])]),
                add([5, 5]),
            ]),
        ),
        canvas("group_of_group", group([group([add([1, 1]), add([2, 2])])])),
        canvas(
            "group_of_chains",
            group([add([1, 1]) | mul([2]), add([3, 3]) | mul([4])]),
        ),
        canvas(
            "group_with_chain_ending_in_group",
            group([add([1, 1]) | group([add([2]), add([3])]), add([4, 4])]),
        ),
        canvas(
            "group_of_one_chain_ending_in_group",
            group([add([1, 1]) | group([add([2]), add([3])])]),
        ),
        canvas(
            "group_with_chord",
            group([chord([add([1, 1]), add([2, 2])], tsum()), add([3, 3])]),
        ),
        canvas(
            "group_with_empty_chain",
            group([add([1, 1]), no_steps(), add([2, 2])]),
        ),
        canvas("group_skew", {
            let wait = |i: u8| f64::from(1 + 2 * i);
            group((0..3).map(|i| add([i.into(), i.into()]).set("countdown", wait(i))))
        }),
        canvas(
            "group_freeze",
            frozen(group([add([1, 1]), group([add([2, 2]), add([3, 3])])])),
        ),
        canvas(
            "group_set_immutable",
            group([add([1, 1]), add([2, 2])]).immutable(),
        )
        .with_args([9]),
        canvas("group_from_dict", reread(group([add([1, 1]), add([2, 2])]))),
    ]
}

fn compositions() -> Vec<Canvas> {
    let none = || group::<Signature>([]);
    let sums = || group([add([1, 1]), add([2, 2])]);
    let adds = || group([add([2]), add([3])]);
    let more = || group([add([3]), add([4])]);
    vec![
        canvas("task_or_group", add([1, 1]) | adds()),
        canvas("task_or_group_of_one", add([1, 1]) | group([add([2])])),
        canvas("task_or_empty_group", add([1, 1]) | none()),
        canvas("chain_or_empty_group", add([1, 1]) | mul([2]) | none()),
        canvas("group_or_task", sums() | tsum()),
        canvas("group_of_one_or_task", group([add([1, 1])]) | identity()),
        canvas("empty_group_or_task", none() | tsum()),
        canvas("group_or_group", sums() | group([tsum(), identity()])),
        canvas("group_or_group_of_one", sums() | group([tsum()])),
        canvas("group_or_empty_group", sums() | none()),
        canvas("group_or_chain", sums() | (tsum() | double())),
        canvas("group_or_task_or_task", sums() | tsum() | double()),
        canvas("group_or_task_or_group", sums() | tsum() | more()),
        canvas(
            "group_or_task_or_group_or_task",
            sums() | tsum() | more() | tsum(),
        ),
        canvas(
            "group_or_group_or_task",
            sums() | group([tsum(), tsum()]) | tsum(),
        ),
        canvas("task_or_group_or_task", add([1, 1]) | adds() | tsum()),
        canvas(
            "task_or_group_or_task_or_task",
            add([1, 1]) | adds() | tsum() | double(),
        ),
        canvas(
            "task_or_group_or_group",
            add([1, 1]) | adds() | group([tsum(), identity()]),
        ),
        canvas(
            "task_or_group_or_task_or_group_or_task",
            add([1, 1]) | adds() | tsum() | group([add([4]), add([5])]) | tsum(),
        ),
        canvas("chain_group_first", chain([sums(), tsum()])),
        canvas("chain_empty_group_first", chain([none(), add([1, 1])])),
        canvas("chain_empty_group_first_partial", chain([none(), add([1])])).with_args([5]),
        canvas(
            "chain_empty_group_middle",
            chain([add([1, 1]), none(), mul([2])]),
        ),
        canvas("chain_only_empty_group", chain([none()])),
        canvas("chain_group_middle", chain([add([1, 1]), adds(), tsum()])),
        canvas(
            "chain_two_groups_middle",
            chain([add([1, 1]), adds(), group([tsum(), tsum()]), tsum()]),
        ),
        canvas(
            "chain_ending_in_group_in_chain",
            chain([add([1, 1]), chain([mul([2]), more()]), tsum()]),
        ),
        canvas(
            "group_or_task_immutable",
            sums().immutable() | noop().immutable(),
        ),
        canvas(
            "group_of_groups_or_task",
            group([sums(), add([3, 3])]) | tsum(),
        ),
        canvas(
            "group_of_chains_or_task",
            group([add([1, 1]) | mul([2]), add([3, 3]) | mul([4])]) | tsum(),
        ),
        canvas(
            "group_generator_or_task",
            group((0..3).map(|i| add([i, i]))) | tsum(),
        ),
    ]
}

fn chords() -> Vec<Canvas> {
    let none = Vec::<Signature>::new;
    let sums = || [add([1, 1]), add([2, 2])];
    let sum = || chord(sums(), tsum());
    let more = || [add([3]), add([4])];
    vec![
        canvas("chord", sum()),
        canvas("chord_call", without_body(sum())).with(|_| sum()),
        canvas("chord_header_group", chord(sums(), tsum())),
        canvas(
            "chord_header_generator",
            chord((0..3).map(|i| add([i, i])), tsum()),
        ),
        canvas("chord_header_one", chord([add([1, 1])], tsum())),
        canvas("chord_header_task", chord([add([1, 1])], tsum())),
        // Celery takes a chain apart that is given for a list.
        canvas("chord_header_chain", chord([add([1, 1]), mul([2])], tsum())),
        canvas(
            "chord_header_chain_in_list",
            chord([add([1, 1]) | mul([2]), add([3, 3])], tsum()),
        ),
        canvas(
            "chord_header_chain_ending_in_group",
            chord(
                [add([1, 1]) | group([add([2]), add([3])]), add([4, 4])],
                tsum(),
            ),
        ),
        canvas(
            "chord_header_nested_group",
            chord([group(sums()), add([3, 3])], tsum()),
        ),
        canvas(
            "chord_header_ignores_results",
            chord([noop().immutable(), noop().immutable()], noop().immutable()),
        ),
        canvas(
            "chord_header_ignores_results_option",
            chord(
                [
                    add([1, 1]).immutable().ignore_result(true),
                    add([2, 2]).immutable(),
                ],
                identity(),
            ),
        ),
        canvas("chord_empty_header", chord(none(), tsum())),
        canvas("chord_empty_header_group", chord(none(), identity())),
        canvas(
            "chord_immutable_body",
            chord(sums(), add([5, 5]).immutable()),
        ),
        canvas("chord_partial", chord([add([1]), add([2])], tsum())).with_args([10]),
        canvas("chord_task_id", sum()).with(|sig| sig.task_id("body-id")),
        canvas("chord_countdown", sum()).with(|sig| sig.countdown(seconds(10))),
        canvas("chord_eta", sum().eta(t0() + TimeDelta::hours(1))),
        canvas("chord_options", sum().queue("hi").priority(3)),
        canvas("chord_apply_options", sum()).with(|sig| sig.queue("hi").priority(3)),
        canvas(
            "chord_body_options",
            chord(sums(), tsum().queue("hi").countdown(seconds(5))),
        ),
        canvas(
            "chord_body_group",
            chord(sums(), group([tsum(), identity()])),
        ),
        canvas("chord_body_chain", chord(sums(), tsum() | double())),
        canvas(
            "chord_body_chain_ending_in_group",
            chord(sums(), tsum() | group(more())),
        ),
        canvas(
            "chord_body_chord",
            chord(sums(), chord([tsum(), tsum()], tsum())),
        ),
        canvas("chord_or_task", sum() | double()),
        canvas("chord_or_task_or_task", sum() | double() | identity()),
        canvas("chord_or_group", sum() | group(more())),
        canvas("chord_or_group_of_one", sum() | group([add([3])])),
        canvas("chord_or_chain", sum() | (double() | identity())),
        canvas("chord_or_chord", sum() | chord(more(), tsum())),
        canvas(
            "task_or_chord",
            add([1, 1]) | chord([add([2]), add([3])], tsum()),
        ),
        canvas("chain_of_chords", chain([sum(), chord(more(), tsum())])),
        canvas(
            "chain_with_three_chords",
            chain([
                add([1, 1]),
                chord([add([2]), add([3])], tsum()),
                chord([add([4]), add([5])], tsum()),
                chord([add([6]), add([7])], tsum()),
                double(),
            ]),
        ),
        canvas("chord_in_chord_header", chord([sum(), add([3, 3])], tsum())),
        canvas(
            "chord_in_chain_in_chord",
            chord(
                [
                    add([1, 1]),
                    chain([add([2, 2]), chord(more(), tsum()), identity()]),
                ],
                tsum(),
            ),
        ),
        canvas(
            "chord_group_body_in_chord_header",
            chord(
                [chord(sums(), group([tsum(), tsum()])), add([3, 3])],
                identity(),
            ),
        ),
        canvas(
            "chord_three_levels",
            chord(
                [
                    chord([chord([add([1, 1])], tsum()), add([2, 2])], tsum()),
                    add([3, 3]),
                ],
                tsum(),
            ),
        ),
        canvas("chord_freeze", frozen(sum().task_id("my-id"))),
        canvas("chord_set_immutable", sum().immutable()).with_args([9]),
        canvas(
            "chord_clone",
            chord([add([1]), add([2])], tsum()).clone_with(
                &[json!(5)],
                &kwargs([]),
                &opts([("priority", json!(2))]),
            ),
        ),
        canvas("chord_from_dict", reread(sum())),
        canvas(
            "chord_header_chain_complete",
            chord([add([1, 1]), mul([2, 2])], tsum()),
        ),
    ]
}

fn maps() -> Vec<Canvas> {
    let pairs = |range: std::ops::Range<i64>| range.map(|i| json!([i, i]));
    vec![
        canvas("map", map(double(), [1, 2, 3])),
        canvas("map_range", map(double(), 0..3)),
        canvas("map_options", map(double(), [1, 2]).queue("hi")),
        canvas("starmap", starmap(add([]), [json!([1, 2]), json!([3, 4])])),
        canvas("starmap_zip", starmap(add([]), pairs(0..3))),
        canvas("map_in_chain", map(double(), [1, 2]) | tsum()),
        canvas("chunks", chunks(add([]), pairs(1..6), 2)),
        canvas(
            "chunks_group",
            group([starmap(add([]), pairs(1..3)), starmap(add([]), pairs(3..4))]),
        ),
        canvas("chunks_apply_options", chunks(add([]), pairs(0..3), 2)).with(|sig| sig.queue("hi")),
    ]
}

fn stamps() -> Vec<Canvas> {
    let sum = || add([2, 2]);
    let bar = || [("foo", "bar")];
    let sums = || [add([1, 1]), add([2, 2])];
    vec![
        canvas("stamp_task", sum().stamp(bar())),
        canvas(
            "stamp_task_list",
            sum().stamp([("foo", json!(["bar", "baz"]))]),
        ),
        canvas(
            "stamp_task_two",
            sum().stamp([("foo", json!("bar")), ("num", json!(5))]),
        ),
        canvas(
            "stamp_task_twice",
            sum().stamp(bar()).stamp([("foo", "baz")]),
        ),
        canvas(
            "stamp_task_append",
            sum().stamp(bar()).append_stamp([("foo", "baz")]),
        ),
        canvas("stamp_visitor", sum().stamp_with(&mut HeaderVisitor)),
        canvas(
            "stamp_link",
            sum().link(mul([8])).link_error(on_error()).stamp(bar()),
        ),
        canvas("stamp_chain", (sum() | mul([8])).stamp(bar())),
        canvas(
            "stamp_chain_visitor",
            (sum() | mul([8])).stamp_with(&mut HeaderVisitor),
        ),
        canvas("stamp_group", group([sum(), add([4, 4])]).stamp(bar())),
        canvas("stamp_chord", chord(sums(), tsum()).stamp(bar())),
        canvas(
            "stamp_chord_visitor",
            chord(sums(), tsum()).stamp_with(&mut HeaderVisitor),
        ),
        canvas("stamp_and_headers", sum().header("x", 1).stamp(bar())),
        canvas("stamp_header_option_kept", sum().stamp(bar()))
            .with(|sig| sig.clone_with(&[], &kwargs([]), &opts([("foo", json!("other"))]))),
    ]
}

fn values() -> Vec<Canvas> {
    let large = || (0..200).map(|i| (format!("key{i:03}"), Value::from(i)));
    vec![
        canvas(
            "arg_unicode",
            identity()
                .arg("na\u{ef}ve \u{2014} \u{65e5}\u{672c}\u{8a9e} \u{1f680} \0\x1f\x7f\u{2028}"),
        ),
        canvas(
            "arg_unicode_kwarg",
            identity().kwarg("x", json!({ "ключ": "значение" })),
        ),
        canvas(
            "arg_quotes",
            fail()
                .arg("it's")
                .arg("say \"hi\"")
                .arg("both ' and \"")
                .arg("back\\slash")
                .arg("tab\tline\n"),
        ),
        canvas(
            "arg_float",
            fail().args([
                1.5,
                0.1,
                -0.0,
                1.0,
                1e100,
                1e16,
                1e15,
                1e-7,
                0.0001,
                5e-324,
                f64::MAX,
            ]),
        ),
        canvas(
            "arg_null_bool",
            fail().args([json!(null), json!(true), json!(false), json!(""), json!(0)]),
        ),
        canvas(
            "arg_nested",
            identity().arg(json!({
                "a": [1, 2, { "b": null, "c": [true, [1.5, "x"]] }],
                "d": {}, "e": [], "f": [],
            })),
        ),
        canvas(
            "arg_tuple",
            fail().args([json!([1, 2]), json!([3]), json!([4])]),
        ),
        canvas("arg_deep", identity().arg(json!([[[[[[1]]]]]]))),
        canvas(
            "arg_dict_keys",
            identity().arg(json!({ "1": "bool", "1.5": "float", "null": "none", "s": "str" })),
        ),
        canvas(
            "arg_datetime",
            identity().arg(datetime("2026-01-02T03:04:05.678901+00:00")),
        ),
        canvas(
            "arg_datetime_naive",
            identity().arg(datetime("2026-01-02T03:04:05")),
        ),
        canvas(
            "arg_date_time",
            fail().args([
                json!({ "__type__": "date", "__value__": "2026-01-02" }),
                json!({ "__type__": "time", "__value__": "03:04:05" }),
                json!({ "__type__": "time", "__value__": "03:04:05.000006+00:00" }),
            ]),
        ),
        canvas(
            "arg_decimal_uuid",
            fail().args([
                json!({ "__type__": "decimal", "__value__": "1.50" }),
                json!({
                    "__type__": "uuid",
                    "__value__": { "hex": "12345678123442348234123456789abc" },
                }),
            ]),
        ),
        canvas(
            "arg_bytes",
            fail().args([
                json!({ "__type__": "bytes", "__value__": "text" }),
                json!({ "__type__": "base64", "__value__": "//4A" }),
                json!({ "__type__": "bytes", "__value__": "" }),
            ]),
        ),
        canvas("arg_signature", identity().arg(add([1, 2]))),
        canvas(
            "arg_type_marker_lookalike",
            identity().arg(json!({ "__type__": "datetime", "other": 1 })),
        ),
        canvas("arg_long_string", identity().arg("x".repeat(3000))),
        canvas("arg_long_list", tsum().arg(Value::from_iter(0..400))),
        canvas(
            "arg_long_kwargs",
            identity().kwarg("x", Value::from_iter(large())),
        ),
        canvas("arg_long_unicode", identity().arg("日".repeat(2000))),
        canvas(
            "arg_many_strings",
            fail().args((0..200).map(|i| format!("item-{i:03}"))),
        ),
    ]
}
