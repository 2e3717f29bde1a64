//! What `#[task]` writes: the function, a handle of the same name, its
//! signatures, and the `impl Task`.

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, Expr, ExprLit, ItemFn, Lit, Meta, MetaNameValue, Path, Result, Type,
    parse_quote,
};

use crate::attr::TaskAttr;
use crate::function::{CtxBy, DefaultValue, Function, Param};
use crate::settings::settings;

/// Expands `#[task(attr)] item`. What is wrong becomes a compile error beside
/// the function, so that it does not also seem to be missing.
pub(crate) fn task(attr: TokenStream, item: TokenStream) -> TokenStream {
    let mut item: ItemFn = match syn::parse2(item.clone()) {
        Ok(item) => item,
        Err(error) => return not_a_function(&error, &item),
    };
    match expand(attr, &mut item) {
        Ok(rest) => quote!(#item #rest),
        Err(error) => {
            let error = error.to_compile_error();
            quote!(#item #error)
        }
    }
}

fn not_a_function(error: &Error, item: &TokenStream) -> TokenStream {
    let has_fn = item
        .clone()
        .into_iter()
        .any(|token| token.to_string() == "fn");
    let text = "#[task] belongs on a free function: `async fn`, or `fn` for blocking work";
    let error = if has_fn {
        error.to_compile_error()
    } else {
        Error::new(error.span(), text).to_compile_error()
    };
    quote!(#item #error)
}

fn expand(attr: TokenStream, item: &mut ItemFn) -> Result<TokenStream> {
    // Both are read before either may fail, so that the attributes of the
    // parameters are off the function in any case.
    let attr = syn::parse2::<TaskAttr>(attr);
    let errback = attr.as_ref().is_ok_and(|attr| attr.errback);
    let function = Function::read(item, errback);
    let (attr, function) = match (attr, function) {
        (Ok(attr), Ok(function)) => (attr, function),
        (Err(mut error), Err(other)) => {
            error.combine(other);
            return Err(error);
        }
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    // That arguments are taken by value is our wish, not the user's.
    item.attrs
        .insert(0, parse_quote!(#[allow(clippy::needless_pass_by_value)]));
    let expansion = Expansion {
        krate: attr.krate.clone().unwrap_or_else(|| parse_quote!(::canvas)),
        attr: &attr,
        item,
        function: &function,
    };
    let handle = expansion.handle();
    let inherent = expansion.inherent();
    let implementation = expansion.implementation();
    Ok(quote!(#handle #inherent #implementation))
}

struct Expansion<'a> {
    krate: Path,
    attr: &'a TaskAttr,
    item: &'a ItemFn,
    function: &'a Function,
}

/// One function on the handle that makes a signature.
struct Maker<'a> {
    name: &'static str,
    doc: String,
    /// What it takes.
    params: &'a [&'a Param],
    /// What the signature takes at run time.
    input: TokenStream,
    /// What is done with the signature before its types are added.
    then: Option<TokenStream>,
}

impl Expansion<'_> {
    /// The type that stands for the task. It has braces, so that the name
    /// alone still means the function.
    fn handle(&self) -> TokenStream {
        let (vis, ident) = (&self.item.vis, &self.item.sig.ident);
        let passed_on = self.item.attrs.iter().filter(|attr| {
            let path = attr.path();
            path.is_ident("cfg") || path.is_ident("deprecated")
        });
        let summary = summary(&self.item.attrs);
        let gap = (!summary.is_empty()).then(|| quote!(#[doc = ""]));
        let doc = format!(
            "The handle of the task `{0}`: `{0}::s` makes a signature of it, and as a type it \
             registers the task with an application.",
            ident.unraw()
        );
        quote! {
            #(#passed_on)*
            #(#[doc = #summary])*
            #gap
            #[doc = #doc]
            #[allow(non_camel_case_types, dead_code)]
            #[derive(
                ::core::fmt::Debug,
                ::core::clone::Clone,
                ::core::marker::Copy,
                ::core::default::Default,
            )]
            #vis struct #ident {}
        }
    }

    /// The conditions under which the function exists at all.
    fn cfgs(&self) -> impl Iterator<Item = &Attribute> {
        let attrs = self.item.attrs.iter();
        attrs.filter(|attr| attr.path().is_ident("cfg"))
    }

    /// The functions on the handle.
    fn inherent(&self) -> TokenStream {
        let (vis, ident, cfgs) = (&self.item.vis, &self.item.sig.ident, self.cfgs());
        let name = self.name();
        let s = self.s();
        let si = self.si();
        let partial = self.partial();
        quote! {
            #(#cfgs)*
            #[allow(dead_code, unreachable_pub, deprecated, clippy::too_many_arguments)]
            impl #ident {
                #[doc = "The name of the task in messages."]
                #[must_use]
                #vis fn name() -> &'static str {
                    #name
                }

                #s
                #si
                #partial
            }
        }
    }

    /// The name: as given, or the path to the function in Python's spelling.
    fn name(&self) -> TokenStream {
        if let Some(name) = &self.attr.name {
            return quote!(#name);
        }
        let last = format!("::{}", self.item.sig.ident.unraw());
        quote! {
            static NAME: ::std::sync::LazyLock<::std::string::String> =
                ::std::sync::LazyLock::new(|| {
                    ::core::concat!(::core::module_path!(), #last).replace("::", ".")
                });
            &NAME
        }
    }

    /// `s`: what the worker gives at run time is left out.
    fn s(&self) -> TokenStream {
        let required: Vec<&Param> = self.function.required().collect();
        let given = match required.first() {
            _ if self.attr.errback => 3,
            Some(first) if first.prev => 1,
            _ => 0,
        };
        let (given, rest) = required.split_at(given);
        let types: Vec<&Type> = given.iter().map(|param| &param.ty).collect();
        let (input, more) = match types[..] {
            [] => (quote!(()), ""),
            [ty] => (
                quote!(#ty),
                "; the first one is the result of the task before it",
            ),
            _ => (
                quote!((#(#types),*)),
                ", for use with `link_error`; request, exception and traceback go before them",
            ),
        };
        self.maker(&Maker {
            name: "s",
            doc: format!("A signature of the task with these arguments{more}."),
            params: rest,
            input,
            then: None,
        })
    }

    /// `si`: everything is given now.
    fn si(&self) -> TokenStream {
        let required: Vec<&Param> = self.function.required().collect();
        let doc = "A signature of the task with these arguments that takes nothing from the \
                   task before it.";
        self.maker(&Maker {
            name: "si",
            doc: doc.to_owned(),
            params: &required,
            input: quote!(()),
            then: Some(quote!(.immutable())),
        })
    }

    /// `partial`: the first argument comes from the task before. There is none
    /// for an errback, whose first arguments never do.
    fn partial(&self) -> Option<TokenStream> {
        let required: Vec<&Param> = self.function.required().collect();
        let (first, rest) = required.split_first()?;
        if self.attr.errback {
            return None;
        }
        Some(self.maker(&Maker {
            name: "partial",
            doc: format!(
                "A signature of the task with all arguments but `{}`, which is the result of the \
                 task before it.",
                first.name()
            ),
            params: rest,
            input: first.ty.to_token_stream(),
            then: None,
        }))
    }

    /// One function that makes a signature.
    fn maker(&self, maker: &Maker<'_>) -> TokenStream {
        let Maker {
            name,
            doc,
            params,
            input,
            then,
        } = maker;
        let (krate, vis, out) = (&self.krate, &self.item.vis, &self.function.output.ty);
        let name = format_ident!("{name}");
        let defaults = self.defaults_doc();
        let takes = params.iter().map(|param| {
            let (ident, ty) = (&param.ident, &param.ty);
            if param.is_string() {
                quote!(#ident: impl ::core::convert::Into<#ty>)
            } else {
                quote!(#ident: #ty)
            }
        });
        let values = params.iter().map(|param| {
            let (ident, ty, name) = (&param.ident, &param.ty, param.name());
            let value = if param.is_string() {
                quote!(::core::convert::Into::<#ty>::into(#ident))
            } else {
                quote!(#ident)
            };
            let value = quote!(#krate::__private::to_value(Self::name(), #name, #value));
            located(value, ty.span())
        });
        quote! {
            #[doc = #doc]
            #defaults
            #[must_use]
            #vis fn #name(#(#takes),*) -> #krate::Sig<#input, #out> {
                #krate::Sig::<#input, #out>::from_signature(
                    #krate::Signature::new(Self::name()) #(.arg(#values))* #then
                )
            }
        }
    }

    /// How to give the arguments that a maker does not take.
    fn defaults_doc(&self) -> Option<TokenStream> {
        let optional = self.function.params.iter().filter(|p| p.default.is_some());
        let names: Vec<String> = optional
            .map(|param| format!("`{}`", param.name()))
            .collect();
        let (first, all) = (names.first()?.replace('`', "\""), names.join(", "));
        let text = format!("With a default, set by name, as in `.kwarg({first}, …)`: {all}.");
        Some(quote!(#[doc = ""] #[doc = #text]))
    }

    /// The `impl Task`.
    fn implementation(&self) -> TokenStream {
        let private = self.private();
        let (ident, cfgs) = (&self.item.sig.ident, self.cfgs());
        let options = self.options();
        let run = self.run();
        quote! {
            #(#cfgs)*
            #[allow(deprecated)]
            #[#private::async_trait]
            impl #private::Task for #ident {
                fn name(&self) -> &str {
                    Self::name()
                }

                #options
                #run
            }
        }
    }

    fn private(&self) -> TokenStream {
        let krate = &self.krate;
        quote!(#krate::__private)
    }

    /// `Task::options`, if they are not the default.
    fn options(&self) -> Option<TokenStream> {
        let private = self.private();
        let settings = settings(self.attr, &private);
        (!settings.is_empty()).then(|| {
            quote! {
                fn options(&self) -> #private::TaskOptions {
                    let mut options = <#private::TaskOptions as ::core::default::Default>::default();
                    #(options.#settings;)*
                    options
                }
            }
        })
    }

    /// `Task::run`: arguments in, the call, the value out. The local names
    /// cannot be seen by the function's name or by a default's expression.
    fn run(&self) -> TokenStream {
        let private = self.private();
        let [ctx, arguments] = ["ctx", "arguments"].map(local);
        let places: Vec<Ident> = (0..self.function.params.len())
            .map(|place| local(&format!("arg{place}")))
            .collect();
        let bind = self.bind(&arguments, &places);
        let function = &self.item.sig.ident;
        let context = self.function.ctx.map(|by| match by {
            CtxBy::Value => quote!(#ctx,),
            CtxBy::Reference => quote!(&#ctx,),
        });
        let call = quote!(#function(#context #(#places),*));
        let finish = if self.item.sig.asyncness.is_some() {
            self.finish(&quote!(#call.await))
        } else {
            // Encoded over there as well: the value need not be Send.
            let finish = self.finish(&call);
            quote!(#private::blocking(move || { #finish }).await)
        };
        let unused = self.function.ctx.is_none().then(|| quote!(let _ = #ctx;));
        quote! {
            async fn run(
                &self,
                #ctx: #private::Ctx,
                #arguments: #private::Arguments,
            ) -> ::core::result::Result<#private::Value, #private::TaskError> {
                #unused
                #bind
                #finish
            }
        }
    }

    /// Takes the arguments out of the message, into one local each.
    fn bind(&self, arguments: &Ident, places: &[Ident]) -> TokenStream {
        let private = self.private();
        let bound = local("bound");
        let params = &self.function.params;
        let names = params.iter().map(Param::name);
        let new = quote!(#private::Bound::new(Self::name(), &[#(#names),*], #arguments)?);
        if params.is_empty() {
            return quote!(#new;);
        }
        let values = params.iter().enumerate().map(|(place, param)| {
            let ty = &param.ty;
            let default = match &param.default {
                None => return located(quote!(#bound.required::<#ty>(#place)?), ty.span()),
                Some(DefaultValue::OfType) => located(
                    quote!(<#ty as ::core::default::Default>::default()),
                    ty.span(),
                ),
                Some(DefaultValue::Expr(expr)) => expr.to_token_stream(),
            };
            let or_else = located(quote!(#bound.or_else::<#ty>), ty.span());
            quote!(#or_else(#place, || #default)?)
        });
        // In a block, so that nothing of it is kept across the call's await.
        quote! {
            let (#(#places,)*) = {
                let mut #bound = #new;
                (#(#values,)*)
            };
        }
    }

    /// Turns what the call gives into the value or the error of `run`.
    fn finish(&self, call: &TokenStream) -> TokenStream {
        let private = self.private();
        let ty = &self.function.output.ty;
        let value = local("value");
        let unwrapped = self.function.output.error.map(|at| {
            let unwrapped = quote! {
                let #value = ::core::result::Result::map_err(
                    #value,
                    ::core::convert::Into::<#private::TaskError>::into,
                )?;
            };
            located(unwrapped, at)
        });
        let encoded = quote!(#private::encode::<#ty>(Self::name(), #value));
        let encoded = located(encoded, ty.span());
        quote! {
            let #value = #call;
            #unwrapped
            #encoded
        }
    }
}

/// The first paragraph of the documentation. No more, because examples further
/// down would run as tests twice.
fn summary(attrs: &[Attribute]) -> Vec<String> {
    let text = |attr: &Attribute| match &attr.meta {
        Meta::NameValue(MetaNameValue {
            path,
            value:
                Expr::Lit(ExprLit {
                    lit: Lit::Str(text),
                    ..
                }),
            ..
        }) if path.is_ident("doc") => Some(text.value()),
        _ => None,
    };
    let whole: Vec<String> = attrs.iter().filter_map(text).collect();
    whole
        .iter()
        .flat_map(|text| text.lines().chain(text.is_empty().then_some("")))
        .skip_while(|line| line.trim().is_empty())
        .take_while(|line| !line.trim().is_empty())
        .map(str::to_owned)
        .collect()
}

/// A local name that only our own tokens can see.
fn local(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}

/// Moves tokens to the place of some code of the user's, so that the compiler
/// points there if they do not fit. What they refer to stays the same.
fn located(tokens: TokenStream, at: Span) -> TokenStream {
    let moved = tokens.into_iter().map(|token| {
        let span = token.span().located_at(at);
        let mut token = match token {
            TokenTree::Group(group) => {
                let stream = located(group.stream(), at);
                TokenTree::Group(Group::new(group.delimiter(), stream))
            }
            other => other,
        };
        token.set_span(span);
        token
    });
    moved.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::{File, Item};

    fn expanded(attr: TokenStream, item: TokenStream) -> Vec<Item> {
        let file: File = syn::parse2(task(attr, item)).unwrap();
        file.items
    }

    fn kinds(items: &[Item]) -> Vec<&'static str> {
        let kind = |item: &Item| match item {
            Item::Fn(_) => "fn",
            Item::Struct(_) => "struct",
            Item::Impl(_) => "impl",
            Item::Macro(_) => "macro",
            _ => "other",
        };
        items.iter().map(kind).collect()
    }

    #[test]
    fn a_task_is_a_function_and_a_handle() {
        let items = expanded(
            quote!(),
            quote!(
                pub async fn add(x: i64, #[default] y: i64) {}
            ),
        );
        assert_eq!(kinds(&items), ["fn", "struct", "impl", "impl"]);
        let Item::Impl(inherent) = &items[2] else {
            panic!("not the functions of the handle")
        };
        let text = inherent.to_token_stream().to_string();
        for function in [
            "pub fn name",
            "pub fn s (x : i64)",
            "pub fn si",
            "pub fn partial ()",
        ] {
            assert!(text.contains(function), "no {function:?} in {text}");
        }
    }

    #[test]
    fn without_a_required_argument_there_is_no_partial() {
        for item in [
            quote!(
                fn f() {}
            ),
            quote!(
                fn f(ctx: &Ctx, #[default] x: i64) {}
            ),
        ] {
            let items = expanded(quote!(), item);
            assert!(!items[2].to_token_stream().to_string().contains("partial"));
        }
    }

    #[test]
    fn an_errback_is_given_its_first_three_arguments() {
        let item = quote!(
            fn f(request: A, exception: B, traceback: C, tag: D) {}
        );
        let text = expanded(quote!(errback), item)[2]
            .to_token_stream()
            .to_string();
        assert!(
            text.contains("fn s (tag : D) -> :: canvas :: Sig < (A , B , C) , () >"),
            "{text}"
        );
        assert!(!text.contains("partial"));
    }

    #[test]
    fn options_that_were_not_given_are_left_to_their_defaults() {
        let text = |attr| {
            expanded(
                attr,
                quote!(
                    fn f() {}
                ),
            )[3]
            .to_token_stream()
            .to_string()
        };
        assert!(!text(quote!()).contains("options"));
        assert!(text(quote!(retry_delay = 2.5)).contains("options . retry . delay ="));
    }

    #[test]
    fn what_is_wrong_stands_beside_the_function() {
        let items = expanded(
            quote!(nmae = "x"),
            quote!(
                fn f(#[default] a: &str) {}
            ),
        );
        assert_eq!(kinds(&items), ["fn", "macro", "macro"]);
        let Item::Fn(function) = &items[0] else {
            panic!("not the function")
        };
        assert!(function.attrs.is_empty());
        assert_eq!(
            function.sig.inputs.to_token_stream().to_string(),
            "a : & str"
        );
    }

    #[test]
    fn only_functions_are_tasks() {
        let text = task(
            quote!(),
            quote!(
                struct S;
            ),
        )
        .to_string();
        assert!(
            text.contains("#[task] belongs on a free function"),
            "{text}"
        );
    }

    #[test]
    fn the_handle_repeats_the_first_paragraph_only() {
        let item: ItemFn = parse_quote! {
            /// One,
            /// two.
            ///
            /// Three.
            fn f() {}
        };
        assert_eq!(summary(&item.attrs), [" One,", " two."]);
        let item: ItemFn = parse_quote! {
            #[doc = "\nOne.\n\nTwo."]
            #[inline]
            fn f() {}
        };
        assert_eq!(summary(&item.attrs), ["One."]);
    }
}
