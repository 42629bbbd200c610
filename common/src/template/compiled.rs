//! A template that is ready to render many times.

use std::collections::BTreeMap;
use std::fmt;

use minijinja::{Environment, Value as EngineValue};
use serde_json::{Map, Value};

use crate::channel::Channel;
use crate::problem::FieldError;

use super::alimtalk::{self, Part};
use super::escape::{self, Context};
use super::{
    Body, BodyKey, Button, MAX_FIELD_BYTES, MAX_LINE_BYTES, Rendered, Template, Variable, data, filters,
    guard, key_name, locale, pick, sandbox,
};

/// Why a text could not be rendered. No variant holds a value of the data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The template has no text for this channel in this locale.
    #[error("the template has no text for {channel}")]
    NoBody {
        /// The channel.
        channel: Channel,
    },
    /// A required variable is not in the data.
    #[error("the variable {name} is missing")]
    MissingVariable {
        /// The variable.
        name: String,
    },
    /// Something inside a variable, such as `order.total`, is not in the data.
    #[error("{field}, line {line}: a value is used that the data does not have")]
    MissingValue {
        /// The field, such as `email.subject`.
        field: String,
        /// The line in its source, from 1.
        line: usize,
    },
    /// The template loops too long.
    #[error("{field}: rendering takes too many steps")]
    TooManySteps {
        /// The field.
        field: String,
    },
    /// The text outgrows its field.
    #[error("{field}: the rendered text is too large")]
    OutputTooLarge {
        /// The field.
        field: String,
    },
    /// The data is beyond what a template may see, see [`data::is_bounded`].
    #[error("the data is too large")]
    DataTooLarge,
    /// The rendered link is not an absolute `http` or `https` URL.
    #[error("{field}: the rendered link is not an http or https URL")]
    InvalidUrl {
        /// The field.
        field: String,
    },
    /// The template does not compile.
    #[error("{field}: {detail}")]
    Invalid {
        /// The field, as [`Template::validate`] names it.
        field: String,
        /// What is wrong with its source.
        detail: String,
    },
    /// An operation that its values do not allow, such as a loop over a number.
    #[error("{field}, line {line}: the values do not fit what the template does with them")]
    Failed {
        /// The field.
        field: String,
        /// The line in its source, from 1; 0 where it is unknown.
        line: usize,
    },
}

impl RenderError {
    pub(super) fn invalid(errors: &[FieldError]) -> Self {
        let (field, detail) =
            errors.first().map_or_else(Default::default, |error| (error.field.clone(), error.detail.clone()));
        RenderError::Invalid { field, detail }
    }
}

/// A template whose sources are compiled. It is immutable and can be shared between threads.
pub struct CompiledTemplate {
    env: Environment<'static>,
    default: Bodies,
    /// By normalized locale.
    locales: BTreeMap<String, Bodies>,
    variables: BTreeMap<String, Variable>,
}

impl fmt::Debug for CompiledTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledTemplate").field("locales", &self.locales.len()).finish_non_exhaustive()
    }
}

type Bodies = BTreeMap<BodyKey, CompiledBody>;

/// The sources of one body.
#[derive(Debug)]
struct CompiledBody {
    key: BodyKey,
    title: Option<Source>,
    text: Option<Source>,
    subject: Option<Source>,
    html: Option<Source>,
    url: Option<Source>,
    buttons: Vec<CompiledButton>,
    template_code: Option<String>,
}

/// A button's label and links; what has no source is kept in `button`.
#[derive(Debug)]
struct CompiledButton {
    button: Button,
    name: Source,
    /// `url`, `desktop_url`, `ios_url`, `android_url`.
    links: [Option<Source>; 4],
}

/// One field's source.
#[derive(Debug)]
enum Source {
    /// Without tags.
    Literal(String),
    /// A template of the environment, by name.
    Compiled(String),
    /// An Alimtalk text and the context of its values.
    Placeholders(Vec<Part>, Context),
}

impl CompiledTemplate {
    /// Compiles every source of `template`.
    ///
    /// # Errors
    /// What [`Template::validate`] finds in the sources: syntax and undeclared variables. Sizes and the fields of
    /// each channel are not looked at again.
    pub fn new(template: &Template) -> Result<Self, Vec<FieldError>> {
        let mut compiler = Compiler {
            env: sandbox::environment(),
            variables: &template.variables,
            sources: 0,
            errors: Vec::new(),
        };
        let default = compiler.bodies("channels", &template.channels);
        let locales = template
            .locales
            .iter()
            .map(|(name, bodies)| {
                let path = format!("locales.{name}.channels");
                (locale::normalize(name), compiler.bodies(&path, &bodies.channels))
            })
            .collect();
        if !compiler.errors.is_empty() {
            return Err(compiler.errors);
        }
        Ok(CompiledTemplate { env: compiler.env, default, locales, variables: template.variables.clone() })
    }

    /// Whether there is a text for `channel` in `locale`, see [`Template::body`].
    #[must_use]
    pub fn has_body(&self, channel: Channel, locale: Option<&str>) -> bool {
        self.body(channel, locale).is_some()
    }

    fn body(&self, channel: Channel, locale: Option<&str>) -> Option<&CompiledBody> {
        locale::chain(locale)
            .iter()
            .filter_map(|wanted| self.locales.get(wanted))
            .chain([&self.default])
            .find_map(|bodies| pick(bodies, channel))
    }

    /// The text of `channel` in `locale` for `data`. Variables that the template does not declare are ignored, types
    /// are not checked again (see [`Template::check_data`]).
    ///
    /// # Errors
    /// See [`RenderError`]; all of them are permanent for this template and data.
    pub fn render(
        &self,
        channel: Channel,
        locale: Option<&str>,
        data: &Map<String, Value>,
    ) -> Result<Rendered, RenderError> {
        let body = self.body(channel, locale).ok_or(RenderError::NoBody { channel })?;
        let values = data::context(&self.variables, data)?;
        let root = EngineValue::from_pairs(values.iter().map(|(name, value)| (name.clone(), value.clone())));
        let run = Run { env: &self.env, key: key_name(body.key), values: &values, root };
        Ok(Rendered {
            title: run.line("title", body.title.as_ref())?,
            text: run.field("text", body.text.as_ref())?.unwrap_or_default(),
            html: run.field("html", body.html.as_ref())?,
            subject: run.line("subject", body.subject.as_ref())?,
            url: run.url("url", body.url.as_ref())?,
            buttons: body.buttons.iter().map(|button| run.button(button)).collect::<Result<_, _>>()?,
            template_code: body.template_code.clone(),
        })
    }
}

/// One rendering.
struct Run<'a> {
    env: &'a Environment<'static>,
    key: &'static str,
    values: &'a BTreeMap<String, EngineValue>,
    root: EngineValue,
}

impl Run<'_> {
    fn field(&self, name: &str, source: Option<&Source>) -> Result<Option<String>, RenderError> {
        let Some(source) = source else { return Ok(None) };
        match source {
            Source::Literal(text) => Ok(Some(text.clone())),
            Source::Compiled(template) => {
                sandbox::render(self.env, template, &self.path(name), &self.root).map(Some)
            }
            Source::Placeholders(parts, context) => self.placeholders(name, parts, *context).map(Some),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.key)
    }

    fn placeholders(&self, name: &str, parts: &[Part], context: Context) -> Result<String, RenderError> {
        let mut text = String::new();
        for part in parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Placeholder(variable) => {
                    let value = self
                        .values
                        .get(variable)
                        .ok_or_else(|| RenderError::MissingVariable { name: variable.clone() })?;
                    let shown = filters::show(value)
                        .map_err(|_| RenderError::Failed { field: self.path(name), line: 0 })?;
                    text.push_str(&context.escape(&shown));
                }
            }
            if text.len() > MAX_FIELD_BYTES {
                return Err(RenderError::OutputTooLarge { field: self.path(name) });
            }
        }
        Ok(text)
    }

    fn line(&self, name: &str, source: Option<&Source>) -> Result<Option<String>, RenderError> {
        match self.field(name, source)? {
            Some(line) if line.len() > MAX_LINE_BYTES => {
                Err(RenderError::OutputTooLarge { field: self.path(name) })
            }
            line => Ok(line),
        }
    }

    /// A link; one that renders to nothing is no link.
    fn url(&self, name: &str, source: Option<&Source>) -> Result<Option<String>, RenderError> {
        match self.field(name, source)? {
            Some(url) if url.trim().is_empty() => Ok(None),
            Some(url) if !escape::is_web_url(url.trim()) => {
                Err(RenderError::InvalidUrl { field: self.path(name) })
            }
            url => Ok(url.map(|url| url.trim().to_owned())),
        }
    }

    fn button(&self, compiled: &CompiledButton) -> Result<Button, RenderError> {
        let [url, desktop_url, ios_url, android_url] = &compiled.links;
        Ok(Button {
            name: self.line("buttons.name", Some(&compiled.name))?.unwrap_or_default(),
            kind: compiled.button.kind,
            url: self.url("buttons.url", url.as_ref())?,
            desktop_url: self.url("buttons.desktop_url", desktop_url.as_ref())?,
            // Apps have schemes of their own.
            ios_url: self.line("buttons.ios_url", ios_url.as_ref())?,
            android_url: self.line("buttons.android_url", android_url.as_ref())?,
        })
    }
}

/// Collects the sources of a template and what is wrong with them.
struct Compiler<'a> {
    env: Environment<'static>,
    variables: &'a BTreeMap<String, Variable>,
    sources: usize,
    errors: Vec<FieldError>,
}

impl Compiler<'_> {
    fn bodies(&mut self, path: &str, bodies: &BTreeMap<BodyKey, Body>) -> Bodies {
        bodies
            .iter()
            .map(|(key, body)| (*key, self.body(&format!("{path}.{}", key_name(*key)), *key, body)))
            .collect()
    }

    fn body(&mut self, path: &str, key: BodyKey, body: &Body) -> CompiledBody {
        let text_context = if key == BodyKey::Telegram { Context::Html } else { Context::Plain };
        let text_name = if body.text.is_some() { "text" } else { "body" };
        let mut field = |name: &str, source: Option<&str>, context| {
            source.map(|source| self.source(&format!("{path}.{name}"), key, source, context))
        };
        let title = field("title", body.title.as_deref(), Context::Line);
        let text = field(text_name, body.main_text(), text_context);
        let subject = field("subject", body.subject.as_deref(), Context::Line);
        let html = field("html", body.html.as_deref(), Context::Html);
        let url = field("url", body.url.as_deref(), Context::Line);
        let buttons = body
            .buttons
            .iter()
            .enumerate()
            .map(|(at, button)| {
                let mut field = |name: &str, source: &str| {
                    self.source(&format!("{path}.buttons[{at}].{name}"), key, source, Context::Line)
                };
                CompiledButton {
                    button: button.clone(),
                    name: field("name", &button.name),
                    links: [
                        button.url.as_deref().map(|source| field("url", source)),
                        button.desktop_url.as_deref().map(|source| field("desktop_url", source)),
                        button.ios_url.as_deref().map(|source| field("ios_url", source)),
                        button.android_url.as_deref().map(|source| field("android_url", source)),
                    ],
                }
            })
            .collect();
        CompiledBody {
            key,
            title,
            text,
            subject,
            html,
            url,
            buttons,
            template_code: body.template_code.clone(),
        }
    }

    fn source(&mut self, path: &str, key: BodyKey, source: &str, context: Context) -> Source {
        if key == BodyKey::Alimtalk {
            return self.placeholders(path, source, context);
        }
        if !guard::has_tags(source) {
            return Source::Literal(source.to_owned());
        }
        if let Err(refusal) = guard::check(source) {
            self.error(path, "syntax", format!("line {}: {}", refusal.line, refusal.reason));
            return Source::Literal(String::new());
        }
        self.sources += 1;
        let name = sandbox::source_name(context, self.sources);
        if let Err(error) = self.env.add_template_owned(name.clone(), source.to_owned()) {
            let detail = error.detail().unwrap_or("this is not a valid template");
            self.error(path, "syntax", format!("line {}: {detail}", error.line().unwrap_or(1)));
            return Source::Literal(String::new());
        }
        let mut used: Vec<String> = self
            .env
            .get_template(&name)
            .map(|template| template.undeclared_variables(false).into_iter().collect())
            .unwrap_or_default();
        used.sort();
        for variable in used {
            self.require(path, &variable);
        }
        Source::Compiled(name)
    }

    fn placeholders(&mut self, path: &str, source: &str, context: Context) -> Source {
        match alimtalk::parse(source) {
            Ok(parts) => {
                for part in &parts {
                    if let Part::Placeholder(variable) = part {
                        self.require(path, variable);
                    }
                }
                Source::Placeholders(parts, context)
            }
            Err(error) => {
                self.error(path, "syntax", error.to_string());
                Source::Literal(String::new())
            }
        }
    }

    fn require(&mut self, path: &str, variable: &str) {
        if !self.variables.contains_key(variable) {
            let shown = escape::prefix(variable, 64);
            self.error(
                path,
                "unknown_variable",
                format!("declare {shown} in variables, or use one that is declared"),
            );
        }
    }

    fn error(&mut self, path: &str, code: &str, detail: String) {
        self.errors.push(FieldError::new(path, code, detail));
    }
}
