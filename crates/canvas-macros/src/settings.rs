//! The options of the attribute as assignments to `TaskOptions`.

use std::time::Duration;

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote};

use crate::attr::{Backoff, Limit, TaskAttr};

/// `field = value` for each option that was given, in terms of what is in the
/// module `private`. The others keep the value that `TaskOptions` gives them.
pub(crate) fn settings(attr: &TaskAttr, private: &TokenStream) -> Vec<TokenStream> {
    let time = |value: Duration| duration(value, private);
    let optional_time = |value: Option<Duration>| value.map(time).map(some);
    let given = [
        ("queue", attr.queue.as_deref().map(string).map(some)),
        ("priority", attr.priority.map(some)),
        ("ignore_result", attr.ignore_result.map(plain)),
        ("track_started", attr.track_started.map(some)),
        ("acks_late", attr.acks_late.map(some)),
        ("time_limit", optional_time(attr.time_limit)),
        ("soft_time_limit", optional_time(attr.soft_time_limit)),
        ("expires", optional_time(attr.expires)),
        ("errback", attr.errback.then_some(true).map(plain)),
        ("retry.max_retries", attr.max_retries.map(limit)),
        ("retry.delay", attr.retry_delay.map(time)),
        ("retry.autoretry_for", list(&attr.autoretry_for)),
        ("retry.dont_autoretry_for", list(&attr.dont_autoretry_for)),
        (
            "retry.backoff",
            attr.retry_backoff.map(|value| backoff(value, private)),
        ),
        ("retry.backoff_max", attr.retry_backoff_max.map(time)),
        ("retry.jitter", attr.retry_jitter.map(plain)),
    ];
    given
        .into_iter()
        .filter_map(|(field, value)| Some((field, value?)))
        .map(|(field, value)| {
            let path = field.split('.').map(|part| format_ident!("{part}"));
            quote!(#(#path).* = #value)
        })
        .collect()
}

fn plain(value: impl ToTokens) -> TokenStream {
    value.into_token_stream()
}

fn some(value: impl ToTokens) -> TokenStream {
    quote!(::core::option::Option::Some(#value))
}

fn none() -> TokenStream {
    quote!(::core::option::Option::None)
}

fn string(value: &str) -> TokenStream {
    quote!(<::std::string::String as ::core::convert::From<_>>::from(#value))
}

fn list(kinds: &[String]) -> Option<TokenStream> {
    let items = kinds.iter().map(|kind| string(kind));
    let list = quote!(<::std::vec::Vec<_> as ::core::convert::From<_>>::from([#(#items),*]));
    (!kinds.is_empty()).then_some(list)
}

fn duration(value: Duration, private: &TokenStream) -> TokenStream {
    let (seconds, nanos) = (value.as_secs(), value.subsec_nanos());
    quote!(#private::Duration::new(#seconds, #nanos))
}

fn limit(value: Limit) -> TokenStream {
    match value {
        Limit::Unlimited => none(),
        Limit::Times(times) => some(times),
    }
}

fn backoff(value: Backoff, private: &TokenStream) -> TokenStream {
    match value {
        Backoff::Off => none(),
        Backoff::From(first) => some(duration(first, private)),
    }
}
