//! Where we differ from Celery 5.7.0 on purpose, canvas by canvas.

use serde_json::{Value, json};

use crate::capture::id;

/// A difference, as a change to what Celery made that gives what we make.
pub(crate) struct Difference {
    /// Why it is there.
    pub(crate) why: &'static str,
    /// The canvases that show it.
    pub(crate) canvases: Vec<&'static str>,
    /// Changes Celery's to ours.
    pub(crate) edit: Box<dyn Fn(&mut Value)>,
}

/// Canvases that cannot be applied here, and what the error says. Celery sends
/// nothing for an empty chain and returns `None`, and it writes pickles.
pub(crate) const REFUSED: [(&str, &str); 3] = [
    ("chain_empty", "a chain needs at least one step"),
    ("chain_empty_list", "a chain needs at least one step"),
    ("opt_serializer_pickle", "messages are JSON"),
];

fn difference<const N: usize>(
    why: &'static str,
    canvases: [&'static str; N],
    edit: impl Fn(&mut Value) + 'static,
) -> Difference {
    Difference {
        why,
        canvases: canvases.to_vec(),
        edit: Box::new(edit),
    }
}

/// Changes the value at a JSON pointer, which must be there.
fn change(value: &mut Value, pointer: &str, edit: impl FnOnce(&mut Value)) {
    edit(value.pointer_mut(pointer).expect(pointer));
}

fn set(pointer: &'static str, new: Value) -> impl Fn(&mut Value) {
    move |value| change(value, pointer, |old| *old = new.clone())
}

/// Changes every object in a value.
fn each_object(value: &mut Value, edit: &dyn Fn(&mut serde_json::Map<String, Value>)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| each_object(item, edit)),
        Value::Object(map) => {
            map.values_mut().for_each(|value| each_object(value, edit));
            edit(map);
        }
        _ => {}
    }
}

/// Takes a key out of every object.
fn without(key: &'static str) -> impl Fn(&mut Value) {
    move |value| {
        each_object(value, &|map| {
            map.shift_remove(key);
        });
    }
}

/// Puts one text for another, wherever it is.
fn instead(value: &mut Value, old: &Value, new: &Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| instead(item, old, new)),
        Value::Object(map) => map.values_mut().for_each(|item| instead(item, old, new)),
        other if other == old => *other = new.clone(),
        _ => {}
    }
}

fn swap(value: &mut Value, one: &str, other: &str) {
    let first = value.pointer(one).expect(one).clone();
    let second = value.pointer(other).expect(other).clone();
    change(value, one, |old| *old = second);
    change(value, other, |old| *old = first);
}

/// The result of the task that was captured with the `n`th id.
fn task(n: u64, parent: Value) -> Value {
    json!([[id(n), parent], null])
}

/// The result of a group of two tasks.
fn group(n: u64, parent: Value, members: [u64; 2]) -> Value {
    let members = members.map(|member| task(member, json!(null)));
    json!([[id(n), parent], members])
}

/// What each canvas is as JSON, before it is applied.
pub(crate) fn of_signatures() -> Vec<Difference> {
    vec![
        difference(
            "freezing needs no application here, so the client that wants the results is \
             written in when the canvas is sent",
            [
                "freeze",
                "freeze_generated_id",
                "freeze_all",
                "chain_freeze",
                "group_freeze",
                "chord_freeze",
            ],
            without("reply_to"),
        ),
        difference(
            "an option that is null is not written down",
            ["group_freeze", "chord_freeze"],
            |canvas| {
                each_object(canvas, &|map| {
                    map.retain(|key, v| !key.ends_with("_id") || !v.is_null())
                })
            },
        ),
        difference(
            "groups in a group keep their order; Celery turns them round when it freezes",
            ["group_freeze"],
            |canvas| swap(canvas, "/kwargs/tasks/1/args", "/kwargs/tasks/2/args"),
        ),
        difference(
            "the members of a header get the body when they are sent, as in a chord in a \
             message of Celery's",
            ["chord_freeze"],
            |canvas| change(canvas, "/kwargs/header", without("chord")),
        ),
        difference(
            "task_allow_error_cb_on_chord_header is a setting of whoever sends the chord, so \
             it counts when it is sent",
            ["link_error_of_chord_with_header"],
            |canvas| change(canvas, "/kwargs/header", without("link_error")),
        ),
        difference(
            "a clone keeps the arguments it was given; Celery's chains lose them",
            ["chain_clone"],
            set("/args", json!([5])),
        ),
        difference(
            "an empty group that is all of a chain stays, so that there is a result",
            ["chain_only_empty_group"],
            set(
                "/kwargs/tasks",
                json!([{
                    "task": "celery.group", "args": [], "kwargs": { "tasks": [] },
                    "options": {}, "subtask_type": "group", "immutable": false,
                }]),
            ),
        ),
        difference(
            "a header stays a list when it is stamped",
            ["stamp_chord_visitor"],
            |canvas| {
                change(canvas, "/kwargs/header", |header| {
                    *header = header["kwargs"]["tasks"].clone();
                });
            },
        ),
    ]
}

/// What is sent when a canvas is applied, and the result that is returned.
pub(crate) fn of_messages() -> Vec<Difference> {
    let mut all = of_headers();
    all.extend(of_embedded());
    all.extend(of_groups());
    all.extend(of_results());
    all
}

/// Changes a header of each message.
fn header(name: &'static str, edit: impl Fn(&mut Value) + 'static) -> impl Fn(&mut Value) {
    move |run| {
        let messages = run["messages"].as_array_mut().expect("messages");
        for message in messages {
            edit(&mut message["headers"][name]);
        }
    }
}

/// Python's tuples as lists, in a text that shows values.
fn lists(text: &str) -> String {
    text.replace(",)", "]").replace('(', "[").replace(')', "]")
}

fn of_headers() -> Vec<Difference> {
    let shown = |name, text: &'static str| {
        difference(
            "what JSON has no type for is shown as the JSON that stands for it",
            [name],
            header("argsrepr", move |old| *old = json!(text)),
        )
    };
    vec![
        difference(
            "times are written in UTC",
            ["opt_eta_other_zone"],
            header("eta", |eta| *eta = json!("2026-05-06T05:08:09+00:00")),
        ),
        difference(
            "times are written in UTC",
            ["opt_eta_naive"],
            header("eta", |eta| *eta = json!("2026-05-06T07:08:09+00:00")),
        ),
        difference("bodies are not compressed", ["opt_compression"], |run| {
            change(run, "/messages/0/headers", without("compression"))
        }),
        difference(
            "a parent that is given to a chain is that of its first task; Celery forgets it",
            ["chain_apply_options"],
            header("parent_id", |parent| *parent = json!("p")),
        ),
        difference(
            "a clone keeps the arguments it was given; Celery's chains lose them",
            ["chain_clone"],
            |run| {
                change(run, "/messages/0/headers/argsrepr", |old| {
                    *old = json!("(5, 1, 1)")
                });
                change(run, "/messages/0/body/0", |args| *args = json!([5, 1, 1]));
            },
        ),
        difference(
            "JSON has no tuples, so there are none to show",
            [
                "map",
                "map_range",
                "map_options",
                "starmap",
                "starmap_zip",
                "map_in_chain",
                "chunks",
                "chunks_group",
                "chunks_apply_options",
            ],
            header("kwargsrepr", |text| {
                *text = lists(text.as_str().expect("text")).into();
            }),
        ),
        difference(
            "JSON has no tuples, so there are none to show but the arguments as a whole",
            ["arg_nested", "arg_tuple", "arg_signature"],
            header("argsrepr", |text| {
                let tuple = text.as_str().expect("text");
                let end = if tuple.ends_with(",)") { ",)" } else { ")" };
                let inner = tuple.strip_prefix('(').and_then(|t| t.strip_suffix(end));
                *text = format!("({}{end}", lists(inner.expect("a tuple"))).into();
            }),
        ),
        difference(
            "arguments are shown as a tuple, whatever they came as",
            ["task_from_dict", "task_from_dict_extra_keys"],
            header("argsrepr", |text| *text = json!("(2, 2)")),
        ),
        shown(
            "arg_dict_keys",
            "({'1': 'bool', '1.5': 'float', 'null': 'none', 's': 'str'},)",
        ),
        shown(
            "arg_datetime",
            "({'__type__': 'datetime', '__value__': '2026-01-02T03:04:05.678901+00:00'},)",
        ),
        shown(
            "arg_datetime_naive",
            "({'__type__': 'datetime', '__value__': '2026-01-02T03:04:05'},)",
        ),
        shown(
            "arg_date_time",
            "({'__type__': 'date', '__value__': '2026-01-02'}, \
             {'__type__': 'time', '__value__': '03:04:05'}, \
             {'__type__': 'time', '__value__': '03:04:05.000006+00:00'})",
        ),
        shown(
            "arg_decimal_uuid",
            "({'__type__': 'decimal', '__value__': '1.50'}, \
             {'__type__': 'uuid', '__value__': {'hex': '12345678123442348234123456789abc'}})",
        ),
        shown(
            "arg_bytes",
            "({'__type__': 'bytes', '__value__': 'text'}, \
             {'__type__': 'base64', '__value__': '//4A'}, \
             {'__type__': 'bytes', '__value__': ''})",
        ),
    ]
}

fn of_embedded() -> Vec<Difference> {
    let ignored = |pointer: &'static str| {
        move |run: &mut Value| {
            change(run, pointer, |options| {
                options["ignore_result"] = json!(true)
            })
        }
    };
    let why_ignored = "that a task's own default drops its result is written down, so that \
                       nobody waits for it";
    let why_chord = "the members of a group that is in a header carry the body; the group \
                     need not carry it too";
    vec![
        difference(
            "a chain of one is its task, so there is no rest of a chain, not even an empty one",
            [
                "chain_one",
                "chain_one_list",
                "chain_or_empty_chain",
                "task_or_empty_group",
                "chain_empty_group_first",
                "chain_empty_group_first_partial",
            ],
            set("/messages/0/body/2/chain", json!(null)),
        ),
        difference(
            why_ignored,
            ["chain_immutable"],
            ignored("/messages/0/body/2/chain/0/options"),
        ),
        difference(
            why_ignored,
            ["group_or_task_immutable", "chord_header_ignores_results"],
            move |run| {
                ignored("/messages/0/body/2/chord/options")(run);
                ignored("/messages/1/body/2/chord/options")(run);
            },
        ),
        difference(
            "add_to_parent is for the process that sends the body, and says what is the case \
             anyway: a body is sent after its sender's children were stored",
            [
                "link_error_of_nested_chord",
                "group_with_chord",
                "chord_in_chord_header",
                "chord_group_body_in_chord_header",
                "chord_three_levels",
            ],
            without("add_to_parent"),
        ),
        difference(why_chord, ["chord_header_chain_ending_in_group"], |run| {
            change(run, "/messages/0/body/2/chain/0/options", |options| {
                options
                    .as_object_mut()
                    .expect("options")
                    .shift_remove("chord");
            });
        }),
        difference(why_chord, ["chord_group_body_in_chord_header"], |run| {
            for message in ["/messages/0", "/messages/1"] {
                change(run, &format!("{message}/body/2/chord/options"), |options| {
                    options
                        .as_object_mut()
                        .expect("options")
                        .shift_remove("chord");
                });
            }
        }),
        difference(
            "a group that is in a header is in the group of that header, like its members",
            ["chord_group_body_in_chord_header"],
            |run| {
                for message in ["/messages/0", "/messages/1"] {
                    let pointer = format!("{message}/body/2/chord/options/group_id");
                    change(run, &pointer, |group| *group = id(1));
                }
            },
        ),
    ]
}

fn of_groups() -> Vec<Difference> {
    let why_index = "each task of a group has an index of its own; Celery counts the groups in \
                     it, and the chains, apart";
    let why_order = "groups in a header keep their order; Celery turns them round, and so the \
                     list that the body gets";
    let swapped = |one: usize, other: usize| {
        move |run: &mut Value| {
            for field in ["body/0", "headers/argsrepr"] {
                let at = |i| format!("/messages/{i}/{field}");
                swap(run, &at(one), &at(other));
            }
        }
    };
    vec![
        difference(
            why_index,
            ["group_nested"],
            set("/messages/2/headers/group_index", json!(2)),
        ),
        difference(why_index, ["group_nested_middle"], |run| {
            for i in 0..5 {
                run["messages"][i]["headers"]["group_index"] = json!(i);
            }
        }),
        difference(
            why_index,
            [
                "group_with_chain_ending_in_group",
                "chord_header_chain_ending_in_group",
            ],
            set("/messages/1/headers/group_index", json!(2)),
        ),
        difference(
            why_index,
            ["chord_group_body_in_chord_header"],
            set("/messages/2/headers/group_index", json!(2)),
        ),
        difference(
            "an empty chain in a group has no place in it",
            ["group_with_empty_chain"],
            set("/messages/1/headers/group_index", json!(1)),
        ),
        difference(
            "a group of one chain that ends in a group is that chain, so its tasks are in the \
             inner group only",
            ["group_of_one_chain_ending_in_group"],
            |run| {
                change(run, "/messages/0/body/2/chain/0", |group| {
                    without("group_id")(group);
                    let options = group["options"].as_object_mut().expect("options");
                    options.shift_remove("group_index");
                });
            },
        ),
        difference(
            why_order,
            ["group_of_groups_or_task", "chord_header_nested_group"],
            swapped(0, 1),
        ),
        difference(why_order, ["group_freeze"], swapped(1, 2)),
    ]
}

fn of_results() -> Vec<Difference> {
    let why_steps = "every step of a chord's body is in the line of parents; Celery leaves out \
                     all but the last";
    let why_wrong = "Celery's result names a header that no message has: it made up another id";
    let header = |members| group(1, json!(null), members);
    let result = |why, name, result: Value| difference(why, [name], set("/result", result));
    vec![
        result(
            "an empty group that is all of a chain has a result: an empty list",
            "chain_only_empty_group",
            json!([[id(1), null], []]),
        ),
        difference(
            why_steps,
            [
                "group_or_chain",
                "group_or_task_or_task",
                "chord_body_chain",
                "chord_or_task",
                "chord_or_group_of_one",
            ],
            set("/result", task(2, task(3, header([4, 5])))),
        ),
        result(
            why_steps,
            "chord_or_task_or_task",
            task(2, task(3, task(4, header([5, 6])))),
        ),
        difference(
            why_steps,
            ["group_or_group_or_task", "chord_body_chord"],
            set("/result", task(2, group(3, header([6, 7]), [4, 5]))),
        ),
        result(
            why_steps,
            "chord_body_chain_ending_in_group",
            group(3, task(6, header([7, 8])), [4, 5]),
        ),
        result(
            why_steps,
            "chord_or_chord",
            task(2, group(3, task(6, header([7, 8])), [4, 5])),
        ),
        difference(why_wrong, ["chord_in_chain_in_chord"], |run| {
            change(run, "/result", |result| instead(result, &id(11), &id(12)));
        }),
        difference(why_wrong, ["chord_three_levels"], |run| {
            change(run, "/result", |result| instead(result, &id(12), &id(15)));
        }),
    ]
}
