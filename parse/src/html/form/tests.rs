use proptest::prelude::*;
use tidegate::Page;

use super::*;
use crate::html;

fn document(body: &str) -> Document {
    html(&Page::build("http://a.test/x/y?z#f").body(body.to_owned())).expect("within bounds")
}

fn form(body: &str) -> Form {
    document(body).form(css!("form")).expect("a form")
}

/// The fields of the first form, with nothing pressed.
fn sent(body: &str) -> String {
    let form = form(body).press_none();
    form.fields().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

#[test]
fn what_a_browser_sends_is_sent() {
    for (controls, expected) in [
        (
            "<input name=a><input name=b value=1><input name=c type=HIDDEN value=2><input name=d type=x value=3>",
            "a=&b=1&c=2&d=3",
        ),
        ("<input value=1><input name='' value=2><input name=a value=3>", "a=3"),
        ("<input name=a value=1 disabled><input name=b value=2>", "b=2"),
        (
            "<input name=a type=checkbox><input name=b type=checkbox checked><input name=c type=checkbox checked value=1>",
            "b=on&c=1",
        ),
        ("<input name=a type=checkbox checked value=1><input name=a type=checkbox checked value=2>", "a=1&a=2"),
        ("<input name=a type=radio value=1><input name=a type=radio value=2 checked><input name=b type=radio>", "a=2"),
        ("<input name=a type=radio value=1 checked><input name=c><input name=a type=radio value=2 checked>", "c=&a=2"),
        (
            "<input name=a type=submit value=1><input name=b type=image><button name=c>x</button><input name=d type=reset>",
            "",
        ),
        ("<input name=a value='1&#10;2'><input type=hidden name=b value='1&#10;2'>", "a=12&b=1\n2"),
        ("<input name=a type=email value=' x@y '><input name=b value=' x '>", "a=x@y&b= x "),
        ("<textarea name=a>\n\n one\n<b></textarea><textarea name=b></textarea>", "a=\n one\n<b>&b="),
        ("<select name=a><option>one<option value=2>two</select>", "a=one"),
        ("<select name=a><option value=1><option value=2 selected><option value=3 selected></select>", "a=3"),
        ("<select name=a><option disabled value=1><option value=2></select>", "a=2"),
        ("<select name=a><optgroup disabled><option value=1></optgroup><option value=2></select>", "a=2"),
        ("<select name=a><option value=1 selected disabled><option value=2></select>", ""),
        ("<select name=a size=3><option value=1></select>", ""),
        ("<select name=a multiple><option value=1></select>", ""),
        (
            "<select name=a multiple><option value=1 selected><option value=2><option selected> two \n words </select>",
            "a=1&a=two words",
        ),
        ("<select name=a></select><select name=b type=radio><option>1</select>", "b=1"),
        ("<input type=file name=a>", "a="),
        ("<input type=hidden name=_charset_ value=x><input name=_charset_ value=y>", "_charset_=UTF-8&_charset_=y"),
        (
            "<fieldset disabled><legend><input name=a></legend><input name=b><legend><input name=c></legend></fieldset>",
            "a=",
        ),
        (
            "<fieldset disabled><fieldset disabled><legend><input name=a></legend></fieldset></fieldset><input name=b>",
            "b=",
        ),
        ("<fieldset><legend><input name=a></legend><input name=b></fieldset>", "a=&b="),
        ("<datalist><input name=a></datalist><input name=b>", "b="),
        ("<svg><input name=a></svg>", ""),
        ("<object name=a></object><output name=b>1</output><label for=c>d</label>", ""),
    ] {
        assert_eq!(sent(&format!("<form>{controls}</form>")), expected, "{controls}");
    }
}

#[test]
fn fields_belong_to_the_form_around_them_or_to_the_one_they_name() {
    for (body, expected) in [
        ("<input name=a><form><input name=b></form><input name=c>", "b="),
        ("<form id=f><input name=a form=g><input name=b></form><form id=g></form><input name=c form=f>", "b=&c="),
        ("<form id=f><input name=a form=nobody></form>", ""),
        ("<form id=f><input name=a form=f></form><form id=f><input name=b form=f></form>", "a=&b="),
        ("<form><p><form><input name=a></form>", "a="),
        // HTML takes the form out of the way and leaves its fields in the rows.
        ("<table><form><tr><td><input name=a></td></tr><tr><td><input name=b></table><input name=c>", "a=&b="),
        ("<table><tr><form><td><input name=a></td></form><form><td><input name=b></td></form></tr></table>", "a="),
        ("<table><tr><td><form><input name=a></form><input name=b></td></tr></table>", "a="),
        ("<table><form><tr><td><table><tr><td><input name=a></table></table>", "a="),
    ] {
        assert_eq!(sent(body), expected, "{body}");
    }
}

#[test]
fn a_form_goes_where_the_page_says() {
    for (body, method, url) in [
        ("<form><input name=q value='a b&c'></form>", "GET", "http://a.test/x/y?q=a+b%26c"),
        ("<form action=''></form>", "GET", "http://a.test/x/y?"),
        ("<form action='?old=1#x'><input name=q></form>", "GET", "http://a.test/x/y?q="),
        ("<form action=' /s ' method=Post></form>", "POST", "http://a.test/s"),
        ("<form method=post></form>", "POST", "http://a.test/x/y?z"),
        ("<form action=?k=1 method=post></form>", "POST", "http://a.test/x/y?k=1"),
        ("<base href=//b.test/c/><form action=d method=post></form>", "POST", "http://b.test/c/d"),
        ("<base href=//b.test/c/><form method=post></form>", "POST", "http://a.test/x/y?z"),
        ("<form method=put action=d></form>", "GET", "http://a.test/x/d?"),
    ] {
        let request = form(body).submit();
        assert_eq!((request.method().as_str(), request.url()), (method, url), "{body}");
    }
    for (body, error) in [
        ("<form action='javascript:x'>", FormError::Action("javascript:x".into())),
        ("<form action='mailto:a@b'>", FormError::Action("mailto:a@b".into())),
        ("<form action='http://['>", FormError::Action("http://[".into())),
        ("<form method=dialog>", FormError::Dialog),
        ("<p>", FormError::Missing(Missing::element(css!("form, div")))),
        ("<div>", FormError::NotAForm("div".into())),
    ] {
        assert_eq!(document(body).form(css!("form, div")).map(|form| format!("{form:?}")), Err(error), "{body}");
    }
    assert_eq!(document("<form action='javascript:x'></form><form></form>").forms().count(), 1);
}

#[test]
fn a_button_sends_its_name_where_it_stands_and_may_lead_elsewhere() {
    let body = "<form action=f><input name=a><button name=b value=1>x</button><input name=c>\
                <input type=submit name=d value=2 formaction=g formmethod=post formenctype=text/plain>\
                <input type=image name=e><button type=button name=no>x</button><button>y</button>\
                <button name=bad formaction='data:,'>z</button><button name=off disabled>z</button></form>";
    let buttons = form(body);
    assert_eq!(buttons.submit().url(), "http://a.test/x/f?a=&b=1&c=", "the first, as by the enter key");
    let other = buttons.clone().press("d").expect("it is there").submit();
    assert_eq!(
        (other.method(), other.url(), &other.body()[..]),
        (&Method::POST, "http://a.test/x/g", &b"a=\r\nc=\r\nd=2\r\n"[..])
    );
    assert_eq!(other.headers().expect("one")[CONTENT_TYPE], "text/plain");
    let press = |name| buttons.clone().press(name).map(|form| form.submit().url().to_owned());
    assert_eq!(press("e").as_deref(), Ok("http://a.test/x/f?a=&c=&e.x=0&e.y=0"));
    assert_eq!(press(""), Ok("http://a.test/x/f?a=&c=".into()));
    for name in ["no", "off", "nobody"] {
        assert_eq!(press(name), Err(FormError::NoButton(name.into())));
    }
    assert_eq!(press("bad"), Err(FormError::Action("data:,".into())));
    // It keeps its place whatever is filled in or left out before it.
    let filled = buttons.with("a", "1").with("a", "2").with("z", "9").without("a").press("d").expect("it is there");
    assert!(filled.fields().map(|(name, _)| name).eq(["c", "d", "z"]));
    let only_bad = form("<form><button name=bad formaction='data:,'>z</button><input name=a></form>");
    assert_eq!(only_bad.submit().url(), "http://a.test/x/y?a=", "a button that leads nowhere is not pressed");
}

#[test]
fn what_is_filled_in_takes_the_place_of_what_was_there() {
    let body = "<form><input name=a value=1><input name=b value=2><input name=a value=3><input name=c></form>";
    let filled = form(body).with("a", "x").with("new", "y").without("c");
    assert!(filled.fields().eq([("a", "x"), ("b", "2"), ("new", "y")]));
    assert_eq!((filled.get("a"), filled.get("c")), (Some("x"), None));
}

#[test]
fn bodies_are_encoded_as_the_form_says() {
    let fields = "<input name='a b' value='1&2'><textarea name=t>x\ny</textarea><input type=file name=f>";
    let plain = form(&format!("<form method=post>{fields}</form>")).submit();
    assert_eq!(&plain.body()[..], b"a+b=1%262&t=x%0D%0Ay&f=");
    let with = |enctype: &str| form(&format!("<form method=post enctype={enctype}>{fields}</form>"));
    let text = with("text/plain").with_file("f", FilePart::new("n.txt", "body")).submit();
    assert_eq!(&text.body()[..], b"a b=1&2\r\nt=x\r\ny\r\nf=n.txt\r\n");
    let upload = with("multipart/form-data").with_file("f", FilePart::new("n.txt", "b\nc"));
    let (one, two) = (upload.submit(), upload.clone().submit());
    assert_eq!(one.identity(), two.identity(), "the same fields are the same request");
    let expected =
        Multipart::new().text("a b", "1&2").text("t", "x\ny").file("f", FilePart::new("n.txt", "b\nc")).encode();
    assert_eq!((&one.headers().expect("one")[CONTENT_TYPE], &one.body()), (&expected.0, &expected.1));
}

// C7
#[test]
fn debug_shows_no_value() {
    let shown = format!("{:?}", form("<form action=/s><input name=password value=hunter2></form>"));
    assert!(shown.contains("password") && shown.contains("http://a.test/s") && !shown.contains("hunter2"), "{shown}");
}

/// Each costs a look at one form and one table, however many there are.
#[test]
fn a_page_of_forms_is_read_in_one_walk() {
    let rows = "<form><tr><td><input name=a></td></tr></form>".repeat(20_000);
    let nested = format!("<table>{rows}</table>");
    assert_eq!(document(&nested).forms().count(), 20_000);
    let legends =
        format!("<form><fieldset disabled>{}{}", "<i></i>".repeat(50_000), "<legend></legend>".repeat(50_000));
    assert_eq!(document(&legends).forms().count(), 1);
}

proptest! {
    #[test]
    fn any_page_has_forms_that_can_be_sent(
        parts in proptest::collection::vec(prop::sample::select(vec![
            "<form>", "</form>", "<form action='javascript:'>", "<form method=post enctype=multipart/form-data>", "<form id=f>", "<table>",
            "<tr>", "<td>", "</table>", "<fieldset disabled>", "</fieldset>", "<legend>", "</legend>", "<input name=a>", "<input name=b form=f>",
            "<input type=radio name=r checked>", "<button name=c>", "<select name=d>", "<option selected>", "</select>", "<datalist>", "</datalist>",
            "<textarea name=e>", "</textarea>", "<template>", "</template>", "<svg>", "</svg>", "x", "<input type=image>",
        ]), 0..40),
    ) {
        for form in document(&parts.concat()).forms() {
            for form in [form.clone(), form.clone().press_none(), form.with("a", "1").without("r").with("b", "2")] {
                let request = form.submit();
                prop_assert!(request.target().is_ok());
                prop_assert_eq!(request.method() == Method::POST, form.method() == Method::POST);
            }
        }
    }
}
