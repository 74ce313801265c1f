//! [`Form`]: what a browser would send of a form of a page (WHATWG HTML, "form submission").

mod controls;

use std::fmt;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use scraper::ElementRef;
use tidegate::Request;
use tidegate::form::{FilePart, Multipart};
use url::Url;

use self::controls::Controls;
use super::{Document, Element, Missing, Selector};
use crate::address::absolute;
use crate::css;

/// A form of a page, with the values that a browser would send if its user did nothing but press the first button.
///
/// Hidden fields, what is checked and what is selected are there; what is disabled is not, nor are buttons that are not pressed. Fields
/// come in the order of the page. Scripts do not run: what a page makes up when it is submitted is for the caller to add.
///
/// Fields belong to the form around them, or to the one that their attribute `form` names. Those of a form that is opened within a table, where
/// HTML leaves it empty, are taken to be the rest of that table. Dates, numbers, ranges and colours are sent as they are written.
///
/// ```
/// use tidegate::Page;
/// use tidegate_parse::{css, html};
///
/// let page = Page::build("https://shop.example/account").body(
///     "<form id=login method=post action=/session>
///        <input type=hidden name=token value=c4f1><input name=user><input name=password type=password>
///        <input type=checkbox name=stay checked><button name=do value=login>Log in</button></form>",
/// );
/// let login = html(&page)?.form(css!("#login"))?.with("user", "me").with("password", "pw").submit();
/// assert_eq!((login.method(), login.url()), (&http::Method::POST, "https://shop.example/session"));
/// assert_eq!(&login.body()[..], b"token=c4f1&user=me&password=pw&stay=on&do=login");
/// # Ok::<(), tidegate::ParseError>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Form {
    target: Target,
    fields: Vec<Field>,
    buttons: Vec<Button>,
    /// Which of them is pressed.
    pressed: Option<usize>,
}

/// Where it goes, and how.
#[derive(Clone)]
struct Target {
    action: Action,
    method: Sent,
    enctype: Enctype,
}

/// What an action means, as far as it can be fetched.
type Action = Result<Url, Box<str>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Get,
    Post,
    /// It closes a dialog, and nothing is sent.
    Dialog,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Enctype {
    UrlEncoded,
    Multipart,
    Text,
}

#[derive(Clone)]
struct Field {
    name: String,
    value: Value,
    /// Of a group the last one that is checked is sent.
    is_radio: bool,
}

#[derive(Clone)]
enum Value {
    Text(String),
    File(FilePart),
}

impl Value {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::File(file) => file.file_name(),
        }
    }
}

/// A button that submits.
#[derive(Clone)]
struct Button {
    /// As the page has it; it sends nothing where it is empty, unless it is a picture.
    name: String,
    sends: Vec<Field>,
    /// Fields before it.
    at: usize,
    target: Target,
}

impl Document {
    /// The first form that matches.
    ///
    /// # Errors
    /// Where nothing matches, or the first that does is no form, or one that leads nowhere that can be fetched.
    ///
    /// ```
    /// use tidegate::Page;
    /// use tidegate_parse::{FormError, css, html};
    ///
    /// let doc = html(&Page::build("http://a.test/").body("<form method=dialog></form>"))?;
    /// assert!(matches!(doc.form(css!("form")), Err(FormError::Dialog)));
    /// assert!(matches!(doc.form(css!("#login")), Err(FormError::Missing(_))));
    /// # Ok::<(), tidegate::ParseError>(())
    /// ```
    pub fn form(&self, selector: &Selector) -> Result<Form, FormError> {
        let element = self.first(selector).ok_or_else(|| Missing::element(selector))?;
        let controls = Controls::of(self).by_form.remove(&element.node.id());
        Form::read(self, element, controls.unwrap_or_default())
    }

    /// The forms of the page, those left out that lead nowhere.
    ///
    /// ```
    /// use tidegate::Page;
    /// use tidegate_parse::html;
    ///
    /// let doc = html(&Page::build("http://a.test/").body("<form><input name=q></form><form><input name=user></form>"))?;
    /// let login = doc.forms().find(|form| form.get("user").is_some()).expect("one");
    /// # let _ = login;
    /// # Ok::<(), tidegate::ParseError>(())
    /// ```
    pub fn forms(&self) -> impl Iterator<Item = Form> {
        let mut controls = Controls::of(self).by_form;
        self.select(css!("form")).filter_map(move |element| {
            let controls = controls.remove(&element.node.id()).unwrap_or_default();
            Form::read(self, element, controls).ok()
        })
    }
}

impl Form {
    fn read(document: &Document, element: Element<'_>, controls: Vec<Element<'_>>) -> Result<Self, FormError> {
        if element.name() != "form" || !element.is_html() {
            return Err(FormError::NotAForm(element.name().into()));
        }
        let target = Target::of(document, element);
        target.judge()?;
        let mut form = Self { target, fields: Vec::new(), buttons: Vec::new(), pressed: None };
        for control in controls {
            form.read_control(document, control);
        }
        form.pressed = (!form.buttons.is_empty()).then_some(0);
        Ok(form)
    }

    fn read_control(&mut self, document: &Document, control: Element<'_>) {
        let attr = |name| control.attr(name).unwrap_or_default();
        let name = attr("name").to_owned();
        let kind = if control.name() == "select" { String::new() } else { attr("type").to_ascii_lowercase() };
        let checked = || control.attr("value").unwrap_or("on");
        match (control.name(), kind.as_str()) {
            ("button" | "input", "reset" | "button") => {}
            ("button", _) | ("input", "submit" | "image") => {
                let sends = match (control.name(), kind.as_str()) {
                    ("input", "image") => {
                        let prefix = if name.is_empty() { String::new() } else { format!("{name}.") };
                        ["x", "y"].map(|axis| Field::text(format!("{prefix}{axis}"), "0")).into()
                    }
                    _ if name.is_empty() => Vec::new(),
                    _ => vec![Field::text(name.clone(), attr("value"))],
                };
                let target = self.target.overridden(document, control);
                self.buttons.push(Button { name, sends, at: self.fields.len(), target });
            }
            _ if name.is_empty() => {}
            ("textarea", _) => self.fields.push(Field::text(name, control.raw_text())),
            ("select", _) => {
                self.fields.extend(selected(control).into_iter().map(|value| Field::text(name.clone(), value)));
            }
            (_, "checkbox" | "radio") if control.attr("checked").is_none() => {}
            (_, "checkbox") => self.fields.push(Field::text(name, checked())),
            (_, "radio") => {
                self.remove(|_, field| field.is_radio && field.name == name);
                self.fields.push(Field { is_radio: true, ..Field::text(name, checked()) });
            }
            (_, "file") => self.fields.push(Field::file(name, FilePart::new("", ""))),
            (_, "hidden") if name.eq_ignore_ascii_case("_charset_") => self.fields.push(Field::text(name, "UTF-8")),
            (_, "hidden") => self.fields.push(Field::text(name, attr("value"))),
            (_, "url" | "email") => self.fields.push(Field::text(name, one_line(attr("value")).trim_ascii())),
            _ => self.fields.push(Field::text(name, one_line(attr("value")))),
        }
    }

    /// Where it goes: the action, resolved against the base of the page; that of the button that is pressed, where it has its own.
    ///
    /// ```
    /// # use tidegate::Page;
    /// # use tidegate_parse::{css, html};
    /// let page = Page::build("http://a.test/x/y").body("<form action=z></form>");
    /// assert_eq!(html(&page)?.form(css!("form"))?.action().as_str(), "http://a.test/x/z");
    /// # Ok::<(), tidegate::ParseError>(())
    /// ```
    pub fn action(&self) -> &Url {
        // That of the form can be fetched, or it would not have been read; a button that leads nowhere cannot be pressed.
        let of_form = || self.target.action.as_ref().expect("judged when the form was read");
        self.button().and_then(|button| button.target.action.as_ref().ok()).unwrap_or_else(of_form)
    }

    /// GET or POST.
    ///
    /// ```
    /// # use tidegate::Page;
    /// # use tidegate_parse::{css, html};
    /// let page = Page::build("http://a.test/").body("<form method=POST></form>");
    /// assert_eq!(html(&page)?.form(css!("form"))?.method(), http::Method::POST);
    /// # Ok::<(), tidegate::ParseError>(())
    /// ```
    pub fn method(&self) -> Method {
        if self.sent().method == Sent::Post { Method::POST } else { Method::GET }
    }

    /// What will be sent, in the order of the page, that of the button that is pressed too; of a file its name.
    ///
    /// ```
    /// # use tidegate::Page;
    /// # use tidegate_parse::{css, html};
    /// let page = Page::build("http://a.test/").body("<form><input name=a value=1><input name=b></form>");
    /// assert!(html(&page)?.form(css!("form"))?.fields().eq([("a", "1"), ("b", "")]));
    /// # Ok::<(), tidegate::ParseError>(())
    /// ```
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries().map(|field| (field.name.as_str(), field.value.text()))
    }

    fn entries(&self) -> impl Iterator<Item = &Field> {
        let (at, of_button) = self.button().map_or((0, &[][..]), |button| (button.at, &button.sends));
        let (before, after) = self.fields.split_at(at.min(self.fields.len()));
        before.iter().chain(of_button).chain(after)
    }

    /// The first value of this name.
    ///
    /// ```
    /// # use tidegate::Page;
    /// # use tidegate_parse::{css, html};
    /// let page = Page::build("http://a.test/").body("<form><input type=hidden name=token value=c4f1></form>");
    /// assert_eq!(html(&page)?.form(css!("form"))?.get("token"), Some("c4f1"));
    /// # Ok::<(), tidegate::ParseError>(())
    /// ```
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Fills in a field: the value takes the place of all of that name, or comes last where there is none.
    ///
    /// ```
    /// # use tidegate::Page;
    /// # use tidegate_parse::{css, html};
    /// let page = Page::build("http://a.test/").body("<form><input name=q><input name=page value=1></form>");
    /// let search = html(&page)?.form(css!("form"))?.with("q", "red shoes").submit();
    /// assert_eq!(search.url(), "http://a.test/?q=red+shoes&page=1");
    /// # Ok::<(), tidegate::ParseError>(())
    /// ```
    pub fn with(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.replaced(Field::text(name, value))
    }

    /// Puts a file into a field.
    ///
    /// ```
    /// use tidegate::Page;
    /// use tidegate::form::FilePart;
    /// use tidegate_parse::{css, html};
    ///
    /// let page = Page::build("http://a.test/")
    ///     .body("<form method=post enctype=multipart/form-data><input type=file name=picture></form>");
    /// let form = html(&page)?.form(css!("form"))?.with_file("picture", FilePart::new("a.png", &b"\x89PNG"[..]));
    /// assert!(form.submit().headers().expect("one")["content-type"].as_bytes().starts_with(b"multipart/form-data"));
    /// # Ok::<(), tidegate::ParseError>(())
    /// ```
    pub fn with_file(self, name: impl Into<String>, file: FilePart) -> Self {
        self.replaced(Field::file(name, file))
    }

    fn replaced(mut self, new: Field) -> Self {
        let Some(first) = self.fields.iter().position(|field| field.name == new.name) else {
            self.fields.push(new);
            return self;
        };
        self.remove(|place, field| place > first && field.name == new.name);
        if let Some(field) = self.fields.get_mut(first) {
            *field = new;
        }
        self
    }

    /// Leaves all fields of this name out.
    ///
    /// ```
    /// # use tidegate::Page;
    /// # use tidegate_parse::{css, html};
    /// let page = Page::build("http://a.test/").body("<form><input name=a><input name=b></form>");
    /// assert_eq!(html(&page)?.form(css!("form"))?.without("a").submit().url(), "http://a.test/?b=");
    /// # Ok::<(), tidegate::ParseError>(())
    /// ```
    pub fn without(mut self, name: &str) -> Self {
        self.remove(|_, field| field.name == name);
        self
    }

    fn remove(&mut self, goes: impl Fn(usize, &Field) -> bool) {
        let mut place = 0;
        let mut gone = Vec::new();
        self.fields.retain(|field| {
            let goes = goes(place, field);
            if goes {
                gone.push(place);
            }
            place += 1;
            !goes
        });
        if gone.is_empty() {
            return;
        }
        for button in &mut self.buttons {
            button.at -= gone.partition_point(|place| *place < button.at);
        }
    }

    /// Presses the first button of this name; by default the first of the form is pressed, as by the enter key.
    ///
    /// # Errors
    /// Where there is no such button, or it leads nowhere that can be fetched.
    ///
    /// ```
    /// # use tidegate::Page;
    /// # use tidegate_parse::{css, html};
    /// let page = Page::build("http://a.test/").body("<form><button name=save>Save</button><button name=send value=1>Send</button></form>");
    /// let form = html(&page)?.form(css!("form"))?;
    /// assert_eq!(form.clone().submit().url(), "http://a.test/?save=");
    /// assert_eq!(form.press("send")?.submit().url(), "http://a.test/?send=1");
    /// # Ok::<(), tidegate::ParseError>(())
    /// ```
    pub fn press(mut self, name: &str) -> Result<Self, FormError> {
        let place = self.buttons.iter().position(|button| button.name == name);
        let place = place.ok_or_else(|| FormError::NoButton(name.into()))?;
        self.buttons.get(place).map_or(Ok(()), |button| button.target.judge())?;
        self.pressed = Some(place);
        Ok(self)
    }

    /// Presses no button, as a script may.
    ///
    /// ```
    /// # use tidegate::Page;
    /// # use tidegate_parse::{css, html};
    /// let page = Page::build("http://a.test/").body("<form><button name=save>Save</button></form>");
    /// assert_eq!(html(&page)?.form(css!("form"))?.press_none().submit().url(), "http://a.test/?");
    /// # Ok::<(), tidegate::ParseError>(())
    /// ```
    pub fn press_none(mut self) -> Self {
        self.pressed = None;
        self
    }

    fn button(&self) -> Option<&Button> {
        let button = self.pressed.and_then(|place| self.buttons.get(place));
        button.filter(|button| button.target.judge().is_ok())
    }

    fn sent(&self) -> &Target {
        self.button().map_or(&self.target, |button| &button.target)
    }

    /// The request: fields in the query for GET, else in the body, by the encoding that the form names. It has no label: give it
    /// one.
    ///
    /// ```
    /// # use tidegate::{Output, Page, ParseError};
    /// # use tidegate_parse::{css, html};
    /// fn next(page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
    ///     out.follow(html(page)?.form(css!("#search"))?.with("page", "2").submit().with_label("results"));
    ///     Ok(())
    /// }
    /// ```
    pub fn submit(&self) -> Request {
        let mut url = self.action().clone();
        let pairs = || self.fields().map(|(name, value)| (crlf(name), crlf(value)));
        if self.method() == Method::GET {
            let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs()).finish();
            url.set_query(Some(&query));
            return Request::from(url);
        }
        let request = Request::from(url).with_method(Method::POST);
        match self.sent().enctype {
            Enctype::UrlEncoded => request.with_form(pairs()),
            Enctype::Multipart => {
                let add = |form: Multipart, field: &Field| match &field.value {
                    Value::Text(text) => form.text(&field.name, text),
                    Value::File(file) => form.file(&field.name, file.clone()),
                };
                request.with_multipart(self.entries().fold(Multipart::new(), add))
            }
            Enctype::Text => {
                let body: String = pairs().map(|(name, value)| format!("{name}={value}\r\n")).collect();
                request.with_header(CONTENT_TYPE, HeaderValue::from_static("text/plain")).with_body(body)
            }
        }
    }
}

impl fmt::Debug for Form {
    /// Without values, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Form")
            .field("method", &self.method())
            .field("action", &self.action().as_str())
            .field("fields", &self.fields().map(|(name, _)| name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// Why there is no form, or no button.
///
/// ```
/// use tidegate::Page;
/// use tidegate_parse::{css, html};
///
/// let doc = html(&Page::build("http://a.test/").body("<form action='javascript:go()'></form>"))?;
/// let error = doc.form(css!("form")).expect_err("no script runs");
/// assert_eq!(error.to_string(), "the form goes to \"javascript:go()\", which cannot be fetched");
/// # Ok::<(), tidegate::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormError {
    /// Nothing matches.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// What matches is another element; its name.
    #[error("the element is no form but {0:?}")]
    NotAForm(Box<str>),
    /// It closes a dialog of the page, and nothing is sent.
    #[error("the form closes a dialog, and sends nothing")]
    Dialog,
    /// Its action is not http or https, or no URL; as it is written, or its beginning.
    #[error("the form goes to {0:?}, which cannot be fetched")]
    Action(Box<str>),
    /// No button of this name submits it.
    #[error("the form has no button {0:?} that submits it")]
    NoButton(Box<str>),
}

impl Field {
    fn text(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: Value::Text(value.into()), is_radio: false }
    }

    fn file(name: impl Into<String>, file: FilePart) -> Self {
        Self { name: name.into(), value: Value::File(file), is_radio: false }
    }
}

impl Target {
    fn of(document: &Document, form: Element<'_>) -> Self {
        Self {
            action: action(document, form.attr("action").unwrap_or_default()),
            method: sent(form.attr("method").unwrap_or_default()),
            enctype: enctype(form.attr("enctype").unwrap_or_default()),
        }
    }

    /// With what a button has of its own.
    fn overridden(&self, document: &Document, button: Element<'_>) -> Self {
        let own_action = button.attr("formaction").map(|raw| action(document, raw));
        Self {
            action: own_action.unwrap_or_else(|| self.action.clone()),
            method: button.attr("formmethod").map_or(self.method, sent),
            enctype: button.attr("formenctype").map_or(self.enctype, enctype),
        }
    }

    fn judge(&self) -> Result<(), FormError> {
        if self.method == Sent::Dialog {
            return Err(FormError::Dialog);
        }
        self.action.as_ref().map(|_| ()).map_err(|raw| FormError::Action(raw.clone()))
    }
}

/// An empty one is the URL of the page, whatever its base.
fn action(document: &Document, raw: &str) -> Action {
    let (base, raw) = if raw.is_empty() { (&document.url, "") } else { (&document.base, raw) };
    absolute(base, raw).ok_or_else(|| raw.chars().take(80).collect::<String>().into())
}

fn sent(method: &str) -> Sent {
    match method.to_ascii_lowercase().as_str() {
        "post" => Sent::Post,
        "dialog" => Sent::Dialog,
        _ => Sent::Get,
    }
}

fn enctype(name: &str) -> Enctype {
    match name.to_ascii_lowercase().as_str() {
        "multipart/form-data" => Enctype::Multipart,
        "text/plain" => Enctype::Text,
        _ => Enctype::UrlEncoded,
    }
}

/// The values of the options that are selected.
fn selected(select: Element<'_>) -> Vec<String> {
    let is_disabled = |option: &Element<'_>| {
        let group =
            option.node.parent().and_then(ElementRef::wrap).filter(|parent| parent.value().name() == "optgroup");
        option.attr("disabled").is_some() || group.is_some_and(|group| group.value().attr("disabled").is_some())
    };
    let options: Vec<_> = select.select(css!("option")).collect();
    let mut chosen: Vec<_> = options.iter().filter(|option| option.attr("selected").is_some()).collect();
    if select.attr("multiple").is_none() {
        let shows_one =
            select.attr("size").and_then(|size| size.trim().parse::<u32>().ok()).is_none_or(|size| size <= 1);
        let first = || options.iter().find(|option| shows_one && !is_disabled(option));
        chosen = chosen.pop().or_else(first).into_iter().collect();
    }
    let value = |option: &&Element<'_>| option.attr("value").map_or_else(|| option.inner_text(), str::to_owned);
    chosen.iter().filter(|option| !is_disabled(option)).map(value).collect()
}

fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], "")
}

/// Line breaks as they are sent.
fn crlf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n")
}

#[cfg(test)]
mod tests;
