//! The `#[task]` attribute of the [canvas](https://docs.rs/canvas) crate. Use
//! it from there; this crate is how it is made.
//!
//! It writes nothing that could not be typed: a plain `impl Task`, and
//! functions that make signatures.

mod attr;
mod expand;
mod function;
mod settings;

use proc_macro::TokenStream;

/// Makes a function a task: something that a worker runs, named in messages.
///
/// ```text
/// /// Adds up.
/// #[task]
/// pub async fn add(x: i64, y: i64, #[default] z: Option<i64>) -> i64 {
///     x + y + z.unwrap_or(0)
/// }
/// ```
///
/// The function stays what it is, so tests can call it: `add(1, 2, None).await`.
/// Beside it there is now a type of the same name, the task's handle:
///
/// ```text
/// Canvas::builder().task::<add>()   // a worker of this application runs it
/// add::s(1, 2)                      // Sig<(), i64>: a signature of add(1, 2)
/// add::partial(2)                   // Sig<i64, i64>: the first argument comes from
///                                   //   the task before it, as in add::s(1, 2) | add::partial(2)
/// add::si(1, 2)                     // Sig<(), i64>, immutable: takes nothing from before
/// add::s(1, 2).kwarg("z", 3)        // arguments with a default are given by name
/// add::name()                       // "myapp.tasks.add"
/// ```
///
/// All these are as visible as the function. A link in documentation has to
/// say which of the two it means: `add()` or `struct@add`.
///
/// # The function
///
/// * `async fn` runs on the async threads, a plain `fn` on threads for
///   blocking work.
/// * The first parameter may be the context, `&Ctx` or `Ctx`. It is known by
///   the name of its type, and it is no argument of the task.
/// * All other parameters are arguments: owned types that implement
///   `Deserialize`, and `Serialize` so that signatures can be made. Where one
///   is a `String`, signatures take whatever turns into one.
/// * It returns `T`, or `Result<T, E>` under any path that ends in `Result`;
///   `T` implements `Serialize`, and `E` turns into a `TaskError` through `?`.
///   A `Result` behind an alias of another name is taken for a value.
/// * It has no generics, is no method, and neither `const`, `unsafe` nor `extern`.
///
/// # The parameters
///
/// * `#[default]` or `#[default(expression)]`: callers may leave it out. An
///   `Option` without this has to be given, if only as null. Parameters with a
///   default come last.
/// * `#[prev]`, on the first argument: the task is meant as a callback, so `s`
///   leaves this one out, as `partial` always does.
///
/// ```text
/// #[task]
/// async fn log(#[prev] result: String, #[default("info".into())] level: String) { … }
///
/// fetch::s(url).link(log::s())
/// ```
///
/// # The options
///
/// All are optional. Seconds may be written as `60`, `2.5`, or with a unit:
/// `"250ms"`, `"90s"`, `"5m"`, `"2h"`, `"1d"`. A flag is `key` or `key = false`.
///
/// | Option | Meaning |
/// |---|---|
/// | `name = "tasks.add"` | the name in messages; the path of the function if not given, with dots: `myapp.tasks.add` |
/// | `queue = "mail"` | the queue to send it to |
/// | `priority = 3` | 0 to 9 |
/// | `ignore_result` | the result is dropped |
/// | `track_started` | STARTED is stored when a worker begins |
/// | `acks_late = false` | the message is acknowledged before the task runs; `acks_late` for after it |
/// | `time_limit = 60` | the task is ended after that |
/// | `soft_time_limit = "50s"` | sent with the message, for workers that tell a task when its time is up; ours do not yet |
/// | `expires = 3600` | calls that have not started by then are dropped |
/// | `errback` | a callback for errors that takes `(request, exception, traceback)`; its `s` leaves these three out |
/// | `max_retries = 5` | how often it is tried again; `none` for no limit |
/// | `retry_delay = 2.5` | the wait before that (Celery's `default_retry_delay`) |
/// | `autoretry_for(IoError, "ValueError")` | kinds of error after which it is tried again by itself; `*` for all |
/// | `dont_autoretry_for(Fatal)` | kinds among these after which it is not |
/// | `retry_backoff` | such a wait is 1 s and doubles each time; `= 2` to begin with 2 s |
/// | `retry_backoff_max = 600` | the longest such wait |
/// | `retry_jitter = false` | the wait is exactly that, not a random part of it |
/// | `crate = canvas_core` | where the names in the expansion are found, `::canvas` if not given |
///
/// Kinds of error are told by their last name, whatever module they are in:
/// that of the Rust type, or that of the Python exception.
///
/// ```text
/// #[task(queue = "mail", max_retries = none, autoretry_for(SmtpError), retry_backoff)]
/// async fn send(ctx: &Ctx, to: String, text: String) -> Result<(), SmtpError> { … }
/// ```
#[proc_macro_attribute]
pub fn task(attr: TokenStream, item: TokenStream) -> TokenStream {
    expand::task(attr.into(), item.into()).into()
}
