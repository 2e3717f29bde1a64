//! The function below the attribute: what a task may look like, and what the
//! expansion has to know about it.

use proc_macro2::{Delimiter, Ident, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, Expr, FnArg, GenericArgument, ItemFn, Meta, Pat, PatType, PathArguments,
    Result, ReturnType, Safety, Type, TypePath, parse_quote,
};

/// A function that can be a task.
pub(crate) struct Function {
    pub(crate) ctx: Option<CtxBy>,
    pub(crate) params: Vec<Param>,
    pub(crate) output: Output,
}

/// How the function takes its context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CtxBy {
    /// `ctx: Ctx`
    Value,
    /// `ctx: &Ctx`
    Reference,
}

/// One argument of the task.
pub(crate) struct Param {
    pub(crate) ident: Ident,
    pub(crate) ty: Type,
    pub(crate) default: Option<DefaultValue>,
    pub(crate) prev: bool,
}

/// What a caller gets who leaves the argument out.
pub(crate) enum DefaultValue {
    /// `#[default]`
    OfType,
    /// `#[default(expr)]`
    Expr(Box<Expr>),
}

/// What the function returns.
pub(crate) struct Output {
    /// The value, without the `Result` around it.
    pub(crate) ty: Type,
    /// Where the type of the error stands, if there is a `Result` around it.
    pub(crate) error: Option<Span>,
}

impl Param {
    /// The name for callers.
    pub(crate) fn name(&self) -> String {
        self.ident.unraw().to_string()
    }

    /// Whether callers may pass whatever turns into a `String`.
    pub(crate) fn is_string(&self) -> bool {
        let Type::Path(TypePath {
            qself: None, path, ..
        }) = bare(&self.ty)
        else {
            return false;
        };
        let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        matches!(
            names[..],
            ["String"] | ["std" | "alloc", "string", "String"]
        )
    }
}

impl Function {
    /// Takes the attributes that are ours off the parameters and checks the
    /// rest. They are off after this even if there is an error, so that the
    /// function itself can still be compiled and used.
    pub(crate) fn read(item: &mut ItemFn, errback: bool) -> Result<Self> {
        let marks: Vec<Vec<Attribute>> = item.sig.inputs.iter_mut().map(take_marks).collect();
        let mut problems = Problems::default();
        problems.note(qualifiers(item));
        let mut function = Self {
            ctx: None,
            params: Vec::new(),
            output: Output {
                ty: parse_quote!(()),
                error: None,
            },
        };
        for (place, (input, marks)) in item.sig.inputs.iter().zip(marks).enumerate() {
            problems.note(function.take_input(place, input, &marks));
        }
        match output(&item.sig.output) {
            Ok(output) => function.output = output,
            Err(error) => problems.note(Err(error)),
        }
        problems.finish()?;
        function.check_order(errback, &item.sig.ident)?;
        Ok(function)
    }

    /// The parameters that callers have to give.
    pub(crate) fn required(&self) -> impl Iterator<Item = &Param> {
        self.params.iter().filter(|param| param.default.is_none())
    }

    fn take_input(&mut self, place: usize, input: &FnArg, marks: &[Attribute]) -> Result<()> {
        let typed = match input {
            FnArg::Typed(typed) => typed,
            FnArg::Receiver(receiver) => {
                let text = "a task is a free function: move it out of the impl, and take what \
                            it needs as arguments";
                return Err(Error::new_spanned(receiver, text));
            }
        };
        if let Some(by) = as_ctx(&typed.ty)? {
            if place > 0 {
                let text = "the context has to be the first parameter";
                return Err(Error::new_spanned(typed, text));
            }
            if let Some(mark) = marks.first() {
                let text = "the context is no argument, the worker gives it";
                return Err(Error::new_spanned(mark, text));
            }
            self.ctx = Some(by);
            return Ok(());
        }
        let param = param(typed, marks)?;
        self.params.push(param);
        Ok(())
    }

    /// Checks what concerns more than one parameter.
    fn check_order(&self, errback: bool, task: &Ident) -> Result<()> {
        for pair in self.params.windows(2) {
            if pair[0].default.is_some() && pair[1].default.is_none() {
                let text = format!(
                    "`{}` needs a #[default], because `{}` before it has one: arguments are \
                     given by position",
                    pair[1].name(),
                    pair[0].name()
                );
                return Err(Error::new_spanned(&pair[1].ident, text));
            }
        }
        if let Some(late) = self.params.iter().skip(1).find(|param| param.prev) {
            let text = "#[prev] belongs on the first argument: that is where the result of the \
                        task before goes";
            return Err(Error::new_spanned(&late.ident, text));
        }
        if errback && self.required().count() < 3 {
            let text = "an errback is called with three arguments: \
                        (request, exception, traceback), all without a default";
            return Err(Error::new_spanned(task, text));
        }
        match self.params.first() {
            Some(first) if errback && first.prev => {
                let text = "an errback gets no result of a task before it: take #[prev] off";
                Err(Error::new_spanned(&first.ident, text))
            }
            _ => Ok(()),
        }
    }
}

/// All errors of one function, so that they are shown at once.
#[derive(Default)]
struct Problems(Option<Error>);

impl Problems {
    fn note(&mut self, result: Result<()>) {
        match (result, &mut self.0) {
            (Ok(()), _) => {}
            (Err(error), Some(all)) => all.combine(error),
            (Err(error), none) => *none = Some(error),
        }
    }

    fn finish(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

fn take_marks(input: &mut FnArg) -> Vec<Attribute> {
    let attrs = match input {
        FnArg::Receiver(receiver) => &mut receiver.attrs,
        FnArg::Typed(typed) => &mut typed.attrs,
    };
    let ours = |attr: &Attribute| attr.path().is_ident("default") || attr.path().is_ident("prev");
    attrs.extract_if(.., |attr| ours(attr)).collect()
}

fn qualifiers(item: &ItemFn) -> Result<()> {
    let sig = &item.sig;
    let mut problems = Problems::default();
    if let Some(token) = &sig.constness {
        let text = "a task runs in a worker, never at compile time: take `const` off";
        problems.note(Err(Error::new_spanned(token, text)));
    }
    if let Safety::Unsafe(token) = &sig.safety {
        let text = "a worker calls tasks with whatever arrives in a message, so a task cannot \
                    be unsafe";
        problems.note(Err(Error::new_spanned(token, text)));
    }
    if let Some(abi) = &sig.abi {
        let text = "a task is called from Rust: take `extern` off";
        problems.note(Err(Error::new_spanned(abi, text)));
    }
    if !sig.generics.params.is_empty() {
        let text = "a task is one function with one name, so it cannot be generic: write a task \
                    for each type, which may share a generic function";
        problems.note(Err(Error::new_spanned(&sig.generics, text)));
    }
    if let Some(variadic) = &sig.variadic {
        let text = "a task has a fixed number of parameters";
        problems.note(Err(Error::new_spanned(variadic, text)));
    }
    problems.finish()
}

fn param(typed: &PatType, marks: &[Attribute]) -> Result<Param> {
    let ident = match &*typed.pat {
        Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() => pat.ident.clone(),
        other => {
            let text = "callers may give arguments by name, so a parameter needs a plain one: \
                        take the value apart inside the function";
            return Err(Error::new_spanned(other, text));
        }
    };
    travels(&typed.ty, "task arguments travel", "take")?;
    let mut param = Param {
        ident,
        ty: (*typed.ty).clone(),
        default: None,
        prev: false,
    };
    if let Some(cfg) = typed.attrs.iter().find(|attr| attr.path().is_ident("cfg")) {
        let text = "the parameters of a task are part of its messages, so they cannot depend on \
                    how it is compiled";
        return Err(Error::new_spanned(cfg, text));
    }
    for mark in marks {
        param.apply(mark)?;
    }
    Ok(param)
}

impl Param {
    fn apply(&mut self, mark: &Attribute) -> Result<()> {
        let fail = |text: &str| Err(Error::new_spanned(mark, text));
        if mark.path().is_ident("prev") {
            if !matches!(mark.meta, Meta::Path(_)) {
                return fail("#[prev] stands alone");
            }
            if self.prev {
                return fail("#[prev] is given twice");
            }
            self.prev = true;
        } else {
            if self.default.is_some() {
                return fail("#[default] is given twice");
            }
            self.default = Some(match &mark.meta {
                Meta::Path(_) => DefaultValue::OfType,
                Meta::List(list) => DefaultValue::Expr(Box::new(list.parse_args()?)),
                Meta::NameValue(_) => {
                    return fail("write #[default] for the type's own, or #[default(value)]");
                }
            });
        }
        if self.prev && self.default.is_some() {
            return fail("a #[prev] argument always comes from the task before: it has no default");
        }
        Ok(())
    }
}

/// Whether this is the context, told by its name: `Ctx` or `&Ctx`.
fn as_ctx(ty: &Type) -> Result<Option<CtxBy>> {
    let named = |ty: &Type| match bare(ty) {
        Type::Path(path) => path.path.segments.last().is_some_and(|s| s.ident == "Ctx"),
        _ => false,
    };
    match bare(ty) {
        Type::Reference(reference) if named(&reference.elem) => match reference.mutability {
            None => Ok(Some(CtxBy::Reference)),
            Some(_) => Err(Error::new_spanned(
                ty,
                "the context is shared: take &Ctx or Ctx",
            )),
        },
        ty if named(ty) => Ok(Some(CtxBy::Value)),
        _ => Ok(None),
    }
}

fn output(output: &ReturnType) -> Result<Output> {
    let ReturnType::Type(_, ty) = output else {
        return Ok(Output {
            ty: parse_quote!(()),
            error: None,
        });
    };
    let mut error = None;
    let mut value = &**ty;
    if let Type::Path(path) = bare(ty)
        && let Some(last) = path.path.segments.last()
        && last.ident == "Result"
    {
        let mut types = type_arguments(&last.arguments);
        value = types.next().ok_or_else(|| {
            let text = "name the type of the value here: Result<T, E> or Result<T>";
            Error::new_spanned(ty, text)
        })?;
        error = Some(types.next().unwrap_or(ty).span());
    }
    travels(value, "what a task returns travels", "return")?;
    Ok(Output {
        ty: value.clone(),
        error,
    })
}

fn type_arguments(arguments: &PathArguments) -> impl Iterator<Item = &Type> {
    let arguments = match arguments {
        PathArguments::AngleBracketed(arguments) => Some(&arguments.args),
        _ => None,
    };
    arguments
        .into_iter()
        .flatten()
        .filter_map(|argument| match argument {
            GenericArgument::Type(ty) => Some(ty),
            _ => None,
        })
}

/// The type without the parentheses and the invisible groups around it, which
/// a macro that writes the function leaves there.
fn bare(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => bare(&group.elem),
        Type::Paren(paren) => bare(&paren.elem),
        other => other,
    }
}

/// Refuses types that cannot be made from JSON, where that can be told from
/// how they are written; the compiler finds the others.
fn travels(ty: &Type, what: &str, verb: &str) -> Result<()> {
    let Some(culprit) = untransferable(ty.to_token_stream()) else {
        return Ok(());
    };
    let text = match culprit {
        Culprit::Str => format!("{what} as JSON: {verb} String instead of &str"),
        Culprit::Slice => format!("{what} as JSON: {verb} Vec<T> instead of &[T]"),
        Culprit::Reference => format!("{what} as JSON: {verb} T instead of &T"),
        Culprit::Impl => format!("{what} as JSON: {verb} a type that has a name instead of `impl`"),
    };
    Err(Error::new_spanned(ty, text))
}

enum Culprit {
    Str,
    Slice,
    Reference,
    Impl,
}

/// Finds a reference or an `impl` anywhere in a type. Works on tokens, because
/// a type can nest in more ways than are worth naming here.
fn untransferable(tokens: TokenStream) -> Option<Culprit> {
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '&' => return Some(referred(tokens)),
            TokenTree::Ident(ident) if ident == "impl" => return Some(Culprit::Impl),
            // Braces hold the expression of a const argument: no types there.
            TokenTree::Group(group) if group.delimiter() != Delimiter::Brace => {
                if let Some(culprit) = untransferable(group.stream()) {
                    return Some(culprit);
                }
            }
            _ => {}
        }
    }
    None
}

/// What the `&` before these tokens refers to.
fn referred(mut tokens: impl Iterator<Item = TokenTree>) -> Culprit {
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(ident) if ident == "mut" => {}
            TokenTree::Ident(ident) if ident == "str" => return Culprit::Str,
            TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => {
                return Culprit::Slice;
            }
            // A lifetime: the apostrophe, then its name.
            TokenTree::Punct(punct) if punct.as_char() == '\'' => drop(tokens.next()),
            _ => break,
        }
    }
    Culprit::Reference
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut item: ItemFn) -> Result<Function> {
        Function::read(&mut item, false)
    }

    fn check_error(errback: bool, mut item: ItemFn, expected: &[&str]) {
        let error = Function::read(&mut item, errback).err();
        let texts: Vec<String> = error
            .into_iter()
            .flatten()
            .map(|error| error.to_string())
            .collect();
        assert_eq!(texts.len(), expected.len(), "{texts:?}");
        for (text, expected) in texts.iter().zip(expected) {
            assert!(text.contains(expected), "{text:?} lacks {expected:?}");
        }
    }

    #[test]
    fn a_function_is_read_with_its_parameters_and_its_value() {
        let function = read(parse_quote! {
            async fn f(_: &canvas::Ctx, #[prev] mut a: String, r#type: u8,
                       #[default] b: Option<i64>, #[default(1 + 1)] c: i64)
                -> canvas::Result<Vec<i64>> {}
        })
        .unwrap();
        assert_eq!(function.ctx, Some(CtxBy::Reference));
        let names: Vec<String> = function.params.iter().map(Param::name).collect();
        assert_eq!(names, ["a", "type", "b", "c"]);
        assert_eq!(function.required().count(), 2);
        assert!(function.params[0].prev && function.params[0].is_string());
        assert!(matches!(
            function.params[2].default,
            Some(DefaultValue::OfType)
        ));
        assert!(matches!(
            function.params[3].default,
            Some(DefaultValue::Expr(_))
        ));
        assert!(function.output.error.is_some());
        let value: Type = parse_quote!(Vec<i64>);
        let found = function.output.ty.to_token_stream().to_string();
        assert_eq!(found, value.to_token_stream().to_string());
    }

    #[test]
    fn our_attributes_are_taken_off_the_function_and_others_stay() {
        let mut item: ItemFn = parse_quote! {
            fn f(#[default] #[allow(unused)] a: &str, #[prev] b: i64) {}
        };
        assert!(Function::read(&mut item, false).is_err());
        let inputs = item.sig.inputs.to_token_stream().to_string();
        assert_eq!(inputs, "# [allow (unused)] a : & str , b : i64");
    }

    #[test]
    fn only_what_can_be_made_from_json_is_a_parameter() {
        let travel = "task arguments travel as JSON: take";
        let str = format!("{travel} String instead of &str");
        for item in [
            parse_quote!(
                fn f(a: &str) {}
            ),
            parse_quote!(
                fn f(a: &'static str) {}
            ),
            parse_quote!(
                fn f(a: Option<&mut str>) {}
            ),
            parse_quote!(
                fn f(a: (u8, &str)) {}
            ),
        ] {
            check_error(false, item, &[&str]);
        }
        let slice = format!("{travel} Vec<T> instead of &[T]");
        check_error(
            false,
            parse_quote!(
                fn f(a: &[u8]) {}
            ),
            &[&slice],
        );
        let reference = format!("{travel} T instead of &T");
        check_error(
            false,
            parse_quote!(
                fn f(a: &Vec<u8>) {}
            ),
            &[&reference],
        );
        check_error(
            false,
            parse_quote!(
                fn f(a: impl Display) {}
            ),
            &["a type that has a name"],
        );
        check_error(
            false,
            parse_quote!(
                fn f() -> Result<&'static str, E> {}
            ),
            &["what a task returns travels as JSON: return String instead of &str"],
        );
        check_error(
            false,
            parse_quote!(
                fn f() -> impl Display {}
            ),
            &["return a type that has"],
        );
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        check_error(
            false,
            parse_quote! {
                const unsafe extern "C" fn f<T>(self, (a, b): (u8, u8), c: &str, ctx: &Ctx) {}
            },
            &[
                "take `const` off",
                "cannot be unsafe",
                "take `extern` off",
                "cannot be generic",
                "a task is a free function",
                "needs a plain one",
                "take String instead of &str",
                "has to be the first parameter",
            ],
        );
    }

    #[test]
    fn marks_stand_where_they_mean_something() {
        for (item, expected) in [
            (
                parse_quote!(
                    fn f(a: u8, #[prev] b: u8) {}
                ),
                "belongs on the first argument",
            ),
            (
                parse_quote!(
                    fn f(
                        #[prev]
                        #[default]
                        a: u8,
                    ) {
                    }
                ),
                "it has no default",
            ),
            (
                parse_quote!(
                    fn f(#[prev(x)] a: u8) {}
                ),
                "#[prev] stands alone",
            ),
            (
                parse_quote!(
                    fn f(
                        #[default]
                        #[default]
                        a: u8,
                    ) {
                    }
                ),
                "#[default] is given twice",
            ),
            (
                parse_quote!(
                    fn f(#[default = 1] a: u8) {}
                ),
                "or #[default(value)]",
            ),
            (
                parse_quote!(
                    fn f(#[default] a: u8, b: u8) {}
                ),
                "`b` needs a #[default]",
            ),
            (
                parse_quote!(
                    fn f(#[default] ctx: &Ctx) {}
                ),
                "the context is no argument",
            ),
            (
                parse_quote!(
                    fn f(ctx: &mut Ctx) {}
                ),
                "take &Ctx or Ctx",
            ),
            (
                parse_quote!(
                    fn f(#[cfg(unix)] a: u8) {}
                ),
                "cannot depend on how it is compiled",
            ),
            (
                parse_quote!(
                    fn f() -> fmt::Result {}
                ),
                "name the type of the value",
            ),
        ] {
            check_error(false, item, &[expected]);
        }
    }

    #[test]
    fn an_errback_takes_three_arguments_at_least() {
        let two = parse_quote!(
            fn f(a: u8, b: u8, #[default] c: u8) {}
        );
        check_error(true, two, &["(request, exception, traceback)"]);
        check_error(
            true,
            parse_quote!(
                fn f(#[prev] a: u8, b: u8, c: u8) {}
            ),
            &["take #[prev] off"],
        );
        check_error(
            true,
            parse_quote!(
                fn f(ctx: &Ctx, a: u8, b: u8, c: u8, d: u8) {}
            ),
            &[],
        );
    }
}
