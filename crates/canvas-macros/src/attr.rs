//! What stands in the brackets: `#[task(…)]`, read into typed values.

use std::time::Duration;

use proc_macro2::{Ident, Span};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{Lit, LitBool, LitInt, LitStr, Path, Result, Token, parenthesized};

/// Every option, in the order in which the documentation explains them.
const KNOWN: [&str; 18] = [
    "name",
    "queue",
    "priority",
    "ignore_result",
    "track_started",
    "acks_late",
    "time_limit",
    "soft_time_limit",
    "expires",
    "errback",
    "max_retries",
    "retry_delay",
    "autoretry_for",
    "dont_autoretry_for",
    "retry_backoff",
    "retry_backoff_max",
    "retry_jitter",
    "crate",
];

/// The options of one task. None, or an empty list, where the user said
/// nothing, so that the defaults stay in one place: `TaskOptions::default()`.
#[derive(Default)]
pub(crate) struct TaskAttr {
    pub(crate) name: Option<String>,
    pub(crate) queue: Option<String>,
    pub(crate) priority: Option<u8>,
    pub(crate) ignore_result: Option<bool>,
    pub(crate) track_started: Option<bool>,
    pub(crate) acks_late: Option<bool>,
    pub(crate) time_limit: Option<Duration>,
    pub(crate) soft_time_limit: Option<Duration>,
    pub(crate) expires: Option<Duration>,
    pub(crate) errback: bool,
    pub(crate) max_retries: Option<Limit>,
    pub(crate) retry_delay: Option<Duration>,
    pub(crate) autoretry_for: Vec<String>,
    pub(crate) dont_autoretry_for: Vec<String>,
    pub(crate) retry_backoff: Option<Backoff>,
    pub(crate) retry_backoff_max: Option<Duration>,
    pub(crate) retry_jitter: Option<bool>,
    pub(crate) krate: Option<Path>,
}

/// `max_retries`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// `none`: try for ever.
    Unlimited,
    /// This often.
    Times(u32),
}

/// `retry_backoff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backoff {
    /// `false`: always wait `retry_delay`.
    Off,
    /// Wait this long, doubled with each retry.
    From(Duration),
}

impl Parse for TaskAttr {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut attr = Self::default();
        let mut seen: Vec<Ident> = Vec::new();
        while !input.is_empty() {
            let key = input.call(Ident::parse_any).map_err(|error| {
                syn::Error::new(error.span(), format!("expected an option: {}", known()))
            })?;
            if seen.contains(&key) {
                let text = format!("`{key}` is given twice; known, each once, are {}", known());
                return Err(syn::Error::new(key.span(), text));
            }
            attr.set(&key, input)?;
            seen.push(key);
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(attr)
    }
}

impl TaskAttr {
    /// Reads what follows `key`.
    fn set(&mut self, key: &Ident, input: ParseStream<'_>) -> Result<()> {
        match key.to_string().as_str() {
            "name" => self.name = Some(text(key, input)?),
            "queue" => self.queue = Some(text(key, input)?),
            "priority" => self.priority = Some(priority(key, input)?),
            "ignore_result" => self.ignore_result = Some(flag(key, input)?),
            "track_started" => self.track_started = Some(flag(key, input)?),
            "acks_late" => self.acks_late = Some(flag(key, input)?),
            "time_limit" => self.time_limit = Some(duration(key, input)?),
            "soft_time_limit" => self.soft_time_limit = Some(duration(key, input)?),
            "expires" => self.expires = Some(duration(key, input)?),
            "errback" => self.errback = flag(key, input)?,
            "max_retries" => self.max_retries = Some(limit(key, input)?),
            "retry_delay" => self.retry_delay = Some(duration(key, input)?),
            "autoretry_for" => self.autoretry_for = kinds(key, input)?,
            "dont_autoretry_for" => self.dont_autoretry_for = kinds(key, input)?,
            "retry_backoff" => self.retry_backoff = Some(backoff(key, input)?),
            "retry_backoff_max" => self.retry_backoff_max = Some(duration(key, input)?),
            "retry_jitter" => self.retry_jitter = Some(flag(key, input)?),
            "crate" => {
                equals(
                    key,
                    input,
                    "the path to the canvas crate, such as canvas_core",
                )?;
                self.krate = Some(input.call(Path::parse_mod_style)?);
            }
            _ => {
                let text = format!("unknown option `{key}`; known are {}", known());
                return Err(syn::Error::new(key.span(), text));
            }
        }
        Ok(())
    }
}

fn known() -> String {
    KNOWN.join(", ")
}

/// Reads the `=` after a key; `wants` says what would have to follow it.
fn equals(key: &Ident, input: ParseStream<'_>, wants: &str) -> Result<()> {
    if input.peek(Token![=]) {
        return input.parse::<Token![=]>().map(drop);
    }
    Err(wrong(key.span(), key, wants))
}

/// Reads `= literal`.
fn literal(key: &Ident, input: ParseStream<'_>, wants: &str) -> Result<Lit> {
    equals(key, input, wants)?;
    input
        .parse()
        .map_err(|error| wrong(error.span(), key, wants))
}

fn wrong(at: Span, key: &Ident, wants: &str) -> syn::Error {
    syn::Error::new(at, format!("`{key}` takes {wants}"))
}

fn text(key: &Ident, input: ParseStream<'_>) -> Result<String> {
    let wants = format!("a text: {key} = \"…\"");
    match literal(key, input, &wants)? {
        Lit::Str(text) if !text.value().is_empty() => Ok(text.value()),
        other => Err(wrong(other.span(), key, &wants)),
    }
}

/// Reads a bare `key` (true) or `key = true|false`.
fn flag(key: &Ident, input: ParseStream<'_>) -> Result<bool> {
    if input.is_empty() || input.peek(Token![,]) {
        return Ok(true);
    }
    let wants = "true or false, or stands alone for true";
    match literal(key, input, wants)? {
        Lit::Bool(LitBool { value, .. }) => Ok(value),
        other => Err(wrong(other.span(), key, wants)),
    }
}

fn priority(key: &Ident, input: ParseStream<'_>) -> Result<u8> {
    let wants = "a number from 0 to 9";
    let literal = literal(key, input, wants)?;
    let number = match &literal {
        Lit::Int(number) => number.base10_parse().ok(),
        _ => None,
    };
    match number {
        Some(priority @ 0..=9) => Ok(priority),
        _ => Err(wrong(literal.span(), key, wants)),
    }
}

fn limit(key: &Ident, input: ParseStream<'_>) -> Result<Limit> {
    let wants = "a number, or `none` for no limit";
    equals(key, input, wants)?;
    if input.peek(Ident::peek_any) {
        let word = input.call(Ident::parse_any)?;
        if word == "none" || word == "None" {
            return Ok(Limit::Unlimited);
        }
        return Err(wrong(word.span(), key, wants));
    }
    let number: LitInt = input
        .parse()
        .map_err(|error| wrong(error.span(), key, wants))?;
    let times = number
        .base10_parse()
        .map_err(|_| wrong(number.span(), key, wants))?;
    Ok(Limit::Times(times))
}

fn backoff(key: &Ident, input: ParseStream<'_>) -> Result<Backoff> {
    let bare = input.is_empty() || input.peek(Token![,]);
    if bare || (input.peek(Token![=]) && input.peek2(LitBool)) {
        let on = flag(key, input)?;
        return Ok(if on {
            Backoff::From(Duration::from_secs(1))
        } else {
            Backoff::Off
        });
    }
    duration(key, input).map(Backoff::From)
}

/// Reads `= 60`, `= 2.5` (seconds) or `= "90s"`.
fn duration(key: &Ident, input: ParseStream<'_>) -> Result<Duration> {
    let wants =
        "seconds (60 or 2.5) or a text with a unit: \"250ms\", \"90s\", \"5m\", \"2h\", \"1d\"";
    let literal = literal(key, input, wants)?;
    let read = match &literal {
        Lit::Int(number) if number.suffix().is_empty() => {
            number.base10_parse().ok().map(Duration::from_secs)
        }
        Lit::Float(number) if number.suffix().is_empty() => scaled(number.base10_digits(), 1.0),
        Lit::Str(text) => with_unit(text),
        _ => None,
    };
    read.ok_or_else(|| wrong(literal.span(), key, wants))
}

fn with_unit(text: &LitStr) -> Option<Duration> {
    let text = text.value();
    let text = text.trim();
    let end = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(end);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    scaled(number.trim(), seconds)
}

fn scaled(number: &str, seconds: f64) -> Option<Duration> {
    let number: f64 = number.parse().ok()?;
    Duration::try_from_secs_f64(number * seconds).ok()
}

/// Reads `(IoError, errors::Other, "ValueError", *)`. A kind is known by its
/// last name only, because that is all that a stored `exc_type` has.
fn kinds(key: &Ident, input: ParseStream<'_>) -> Result<Vec<String>> {
    let wants =
        format!("kinds of error in parentheses: {key}(IoError, \"ValueError\") or {key}(*)");
    if !input.peek(syn::token::Paren) {
        return Err(wrong(key.span(), key, &wants));
    }
    let inside;
    parenthesized!(inside in input);
    if inside.is_empty() {
        return Err(wrong(key.span(), key, &wants));
    }
    let mut kinds = Vec::new();
    while !inside.is_empty() {
        kinds.push(kind(key, &inside, &wants)?);
        if !inside.is_empty() {
            inside.parse::<Token![,]>()?;
        }
    }
    Ok(kinds)
}

fn kind(key: &Ident, input: ParseStream<'_>, wants: &str) -> Result<String> {
    if input.peek(Token![*]) {
        input.parse::<Token![*]>()?;
        return Ok("*".to_owned());
    }
    if input.peek(LitStr) {
        let text = input.parse::<LitStr>()?;
        let whole = text.value();
        let last = whole.rsplit(['.', ':']).next().unwrap_or(&whole);
        if last.is_empty() {
            return Err(wrong(text.span(), key, wants));
        }
        return Ok(last.to_owned());
    }
    let path = input
        .call(Path::parse_mod_style)
        .map_err(|error| wrong(error.span(), key, wants))?;
    let last = path.segments.last();
    Ok(last.map_or_else(String::new, |segment| segment.ident.unraw().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quote::ToTokens;
    use syn::parse_quote;

    fn message(text: &str) -> String {
        syn::parse_str::<TaskAttr>(text).err().unwrap().to_string()
    }

    #[test]
    fn nothing_said_is_nothing_set() {
        let attr: TaskAttr = parse_quote!();
        assert!(attr.name.is_none() && attr.krate.is_none() && !attr.errback);
    }

    #[test]
    fn every_option_is_read() {
        let attr: TaskAttr = parse_quote! {
            name = "tasks.add", queue = "mail", priority = 3, ignore_result,
            track_started, acks_late = false, time_limit = 60, soft_time_limit = "90s",
            expires = 2.5, errback, max_retries = 5, retry_delay = 2.5,
            autoretry_for(IoError, std::fmt::Error, "ValueError", *),
            dont_autoretry_for("requests.ConnectionError",), retry_backoff = 2,
            retry_backoff_max = "10m", retry_jitter = false, crate = canvas_core,
        };
        assert_eq!(attr.name.as_deref(), Some("tasks.add"));
        assert_eq!(attr.queue.as_deref(), Some("mail"));
        assert_eq!(attr.priority, Some(3));
        assert_eq!((attr.ignore_result, attr.errback), (Some(true), true));
        assert_eq!(
            (attr.track_started, attr.acks_late),
            (Some(true), Some(false))
        );
        assert_eq!(attr.time_limit, Some(Duration::from_secs(60)));
        assert_eq!(attr.soft_time_limit, Some(Duration::from_secs(90)));
        assert_eq!(attr.expires, Some(Duration::from_millis(2500)));
        assert_eq!(attr.max_retries, Some(Limit::Times(5)));
        assert_eq!(attr.retry_delay, Some(Duration::from_millis(2500)));
        assert_eq!(attr.autoretry_for, ["IoError", "Error", "ValueError", "*"]);
        assert_eq!(attr.dont_autoretry_for, ["ConnectionError"]);
        assert_eq!(
            attr.retry_backoff,
            Some(Backoff::From(Duration::from_secs(2)))
        );
        assert_eq!(attr.retry_backoff_max, Some(Duration::from_secs(600)));
        assert_eq!(attr.retry_jitter, Some(false));
        let krate = attr.krate.unwrap().to_token_stream().to_string();
        assert_eq!(krate, "canvas_core");
    }

    #[test]
    fn flags_and_none_have_their_own_forms() {
        let attr: TaskAttr = parse_quote!(max_retries = none, retry_backoff);
        assert_eq!(attr.max_retries, Some(Limit::Unlimited));
        assert_eq!(
            attr.retry_backoff,
            Some(Backoff::From(Duration::from_secs(1)))
        );
        let attr: TaskAttr = parse_quote!(retry_backoff = false, ignore_result = false);
        assert_eq!(attr.retry_backoff, Some(Backoff::Off));
        assert_eq!(attr.ignore_result, Some(false));
        let attr: TaskAttr = parse_quote!(retry_backoff = true, crate = crate);
        assert_eq!(
            attr.retry_backoff,
            Some(Backoff::From(Duration::from_secs(1)))
        );
    }

    #[test]
    fn durations_have_units() {
        for (text, millis) in [
            ("\"250ms\"", 250),
            ("\"1.5 s\"", 1_500),
            ("\"5m\"", 300_000),
            ("\"2h\"", 7_200_000),
            ("\"1d\"", 86_400_000),
            ("0", 0),
        ] {
            let attr: TaskAttr = syn::parse_str(&format!("expires = {text}")).unwrap();
            assert_eq!(attr.expires, Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "\"soon\"", "\"5\"", "\"5w\"", "-5", "60s", "2.5f32", "true", "\"-1s\"", "x",
        ] {
            let error = message(&format!("expires = {text}"));
            assert!(
                error.starts_with("`expires` takes seconds"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        for (text, start) in [
            (
                "nmae = \"x\"",
                "unknown option `nmae`; known are name, queue, priority, ",
            ),
            ("queue = \"a\", queue = \"b\"", "`queue` is given twice; "),
            ("\"x\"", "expected an option: name, "),
            ("name", "`name` takes a text: name = \"…\""),
            ("name = \"\"", "`name` takes a text"),
            ("queue = 3", "`queue` takes a text"),
            ("priority = 10", "`priority` takes a number from 0 to 9"),
            ("priority = \"3\"", "`priority` takes a number from 0 to 9"),
            ("acks_late = 1", "`acks_late` takes true or false"),
            (
                "max_retries = lots",
                "`max_retries` takes a number, or `none`",
            ),
            (
                "max_retries = -1",
                "`max_retries` takes a number, or `none`",
            ),
            ("max_retries", "`max_retries` takes a number, or `none`"),
            (
                "autoretry_for = X",
                "`autoretry_for` takes kinds of error in parentheses",
            ),
            (
                "autoretry_for()",
                "`autoretry_for` takes kinds of error in parentheses",
            ),
            (
                "autoretry_for(1)",
                "`autoretry_for` takes kinds of error in parentheses",
            ),
            ("crate", "`crate` takes the path to the canvas crate"),
            ("errback priority = 3", "`errback` takes true or false"),
        ] {
            let error = message(text);
            assert!(error.starts_with(start), "{text}: {error}");
        }
    }
}
