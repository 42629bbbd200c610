//! Templates as users write them, and as attackers do.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

fn template(json: Value) -> Template {
    serde_json::from_value(json).unwrap()
}

/// A template with one text and variables of the given types, all required.
fn single(key: &str, field: &str, source: &str, variables: Value) -> Template {
    let mut body = json!({field: source});
    if key == "email" && field != "subject" {
        body["subject"] = "s".into();
    }
    if key == "email" && field == "subject" {
        body["text"] = "t".into();
    }
    let variables: Map<String, Value> = variables
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, kind)| (name.clone(), json!({"type": kind})))
        .collect();
    template(json!({"channels": {key: body}, "variables": variables}))
}

fn data(json: Value) -> Map<String, Value> {
    json.as_object().unwrap().clone()
}

/// Renders a text message.
fn sms(source: &str, variables: Value, values: Value) -> Result<String, RenderError> {
    let template = single("sms", "text", source, variables);
    assert_eq!(template.validate(), Ok(()), "{source}");
    template.render(Channel::Sms, None, &data(values)).map(|rendered| rendered.text)
}

fn findings(template: &Template) -> Vec<(String, String)> {
    template.validate().err().unwrap_or_default().into_iter().map(|error| (error.field, error.code)).collect()
}

fn shop() -> Template {
    template(json!({
        "channels": {
            "email": {"subject": "Order {{ order }}", "html": "<p>{{ order }}</p>", "text": "Order {{ order }}\n"},
            "sms": {"text": "Order {{ order }}"},
            "push": {"title": "Shipped", "body": "Order {{ order }}", "url": "https://e.com/o/{{ order|urlencode }}"},
            "apns": {"body": "Apple {{ order }}"},
            "inbox": {"title": "Shipped", "body": "Order {{ order }}"},
            "telegram": {"text": "<b>Order</b> {{ order }}",
                         "buttons": [{"name": "Order {{ order }}", "url": "https://e.com/{{ order|urlencode }}"}]},
            "alimtalk": {"template_code": "TC1", "text": "주문 #{order}\n감사합니다",
                         "buttons": [{"name": "보기", "type": "WL", "url": "https://e.com/#{order}"}, {"name": "배송", "type": "DS"}]}
        },
        "locales": {
            "ko": {"channels": {"sms": {"text": "주문 {{ order }}"}, "push": {"body": "푸시 {{ order }}"}}},
            "ko-KR": {"channels": {"sms": {"text": "주문(KR) {{ order }}"}}}
        },
        "variables": {"order": {"type": "string", "required": true, "example": "1042"}}
    }))
}

#[test]
fn the_contracts_example_validates_and_renders() {
    let shop = shop();
    assert_eq!(shop.validate(), Ok(()));
    let values = data(json!({"order": "10/42"}));
    assert_eq!(shop.check_data(&values), Ok(()));
    let render = |channel, locale| shop.render(channel, locale, &values).unwrap();
    let email = render(Channel::Email, None);
    assert_eq!(email.subject.as_deref(), Some("Order 10/42"));
    assert_eq!(email.html.as_deref(), Some("<p>10/42</p>"));
    assert_eq!(email.text, "Order 10/42\n");
    assert_eq!(render(Channel::Fcm, None).url.as_deref(), Some("https://e.com/o/10%2F42"));
    assert_eq!(render(Channel::Telegram, None).buttons[0].name, "Order 10/42");
    let alimtalk = render(Channel::Alimtalk, None);
    assert_eq!(alimtalk.text, "주문 10/42\n감사합니다");
    assert_eq!(alimtalk.template_code.as_deref(), Some("TC1"));
    assert_eq!(alimtalk.buttons[0].url.as_deref(), Some("https://e.com/10/42"));
    assert_eq!(alimtalk.buttons[1].kind, ButtonKind::Ds);
    // Stored templates come back as they were.
    assert_eq!(serde_json::from_value::<Template>(serde_json::to_value(&shop).unwrap()).unwrap(), shop);
}

#[test]
fn a_locale_falls_back_and_a_channel_beats_push_within_it() {
    let shop = shop();
    let values = data(json!({"order": "1"}));
    let text = |channel, locale| shop.render(channel, locale, &values).unwrap().text;
    assert_eq!(text(Channel::Sms, Some("ko-KR")), "주문(KR) 1");
    assert_eq!(text(Channel::Sms, Some("KO_kr")), "주문(KR) 1");
    assert_eq!(text(Channel::Sms, Some("ko-KP")), "주문 1");
    assert_eq!(text(Channel::Sms, Some("en-US")), "Order 1");
    assert_eq!(text(Channel::Sms, None), "Order 1");
    assert_eq!(text(Channel::Apns, None), "Apple 1");
    assert_eq!(text(Channel::Fcm, None), "Order 1");
    // The language matters more than the more specific key.
    assert_eq!(text(Channel::Apns, Some("ko-KR")), "푸시 1");
    assert!(!shop.has_body(Channel::Webhook, Some("ko-KR")));
    assert!(!shop.channels(None).contains(&Channel::Webhook));
    assert_eq!(
        shop.render(Channel::Webhook, None, &values),
        Err(RenderError::NoBody { channel: Channel::Webhook })
    );
    let compiled = CompiledTemplate::new(&shop).unwrap();
    for channel in Channel::ALL {
        for locale in [None, Some("ko"), Some("ko-KR"), Some("fr")] {
            assert_eq!(compiled.has_body(channel, locale), shop.has_body(channel, locale));
            assert_eq!(compiled.render(channel, locale, &values), shop.render(channel, locale, &values));
        }
    }
}

#[test]
fn unknown_fields_and_channels_are_refused() {
    for bad in [
        json!({"channels": {"sms": {"text": "x", "colour": "red"}}}),
        json!({"channels": {"fax": {"text": "x"}}}),
        json!({"chanels": {}}),
        json!({"channels": {}, "variables": {"a": {"type": "date"}}}),
    ] {
        assert!(serde_json::from_value::<Template>(bad).is_err());
    }
}

#[test]
fn every_finding_has_its_path() {
    let found = |json| findings(&template(json));
    let is = |field: &str, code: &str| vec![(field.to_owned(), code.to_owned())];
    assert_eq!(found(json!({"channels": {}})), is("channels", "missing"));
    assert_eq!(
        found(json!({"channels": {"sms": {"text": "{{ a }}"}}})),
        is("channels.sms.text", "unknown_variable")
    );
    assert_eq!(found(json!({"channels": {"sms": {"body": "{% if %}"}}})), is("channels.sms.body", "syntax"));
    assert_eq!(
        found(json!({"channels": {"sms": {"text": "x", "html": "y"}}})),
        is("channels.sms.html", "not_allowed")
    );
    assert_eq!(
        found(json!({"channels": {"sms": {"text": "x", "body": "y"}}})),
        is("channels.sms.body", "conflict")
    );
    assert_eq!(found(json!({"channels": {"sms": {}}})), is("channels.sms.text", "missing"));
    assert_eq!(found(json!({"channels": {"email": {"text": "x"}}})), is("channels.email.subject", "missing"));
    assert_eq!(found(json!({"channels": {"email": {"subject": "x"}}})), is("channels.email.text", "missing"));
    for subject in ["a\rb", "a\nb", "a\0b"] {
        assert_eq!(
            found(json!({"channels": {"email": {"subject": subject, "text": "x"}}})),
            is("channels.email.subject", "invalid")
        );
    }
    assert_eq!(
        found(json!({"channels": {"push": {"body": "x", "url": "javascript:x"}}})),
        is("channels.push.url", "invalid")
    );
    assert_eq!(
        found(json!({"channels": {"alimtalk": {"template_code": "T", "text": "#{a}"}}})),
        is("channels.alimtalk.text", "unknown_variable")
    );
    assert_eq!(
        found(
            json!({"channels": {"alimtalk": {"template_code": "T", "text": "{{ a }}"}}, "variables": {"a": {"type": "string"}}})
        ),
        is("channels.alimtalk.text", "syntax")
    );
    assert_eq!(
        found(json!({"channels": {"alimtalk": {"text": "x"}}})),
        is("channels.alimtalk.template_code", "missing")
    );
    assert_eq!(
        found(json!({"channels": {"sms": {"text": "x"}}, "locales": {"ko KR": {"channels": {}}}})),
        is("locales.ko KR", "invalid")
    );
    assert_eq!(
        found(
            json!({"channels": {"sms": {"text": "x"}}, "locales": {"ko-KR": {"channels": {}}, "ko_kr": {"channels": {}}}})
        ),
        is("locales.ko_kr", "duplicate")
    );
    assert_eq!(
        found(
            json!({"channels": {"sms": {"text": "x"}}, "locales": {"ko": {"channels": {"sms": {"text": "{{ b }}"}}}}})
        ),
        is("locales.ko.channels.sms.text", "unknown_variable")
    );
    for name in ["1a", "a-b", "loop", "if", "", "ä", &"a".repeat(65)] {
        let found =
            found(json!({"channels": {"sms": {"text": "x"}}, "variables": {name: {"type": "string"}}}));
        assert_eq!(found[0].1, "invalid", "{name}");
    }
    assert_eq!(
        found(
            json!({"channels": {"sms": {"text": "x"}}, "variables": {"a": {"type": "integer", "example": 1.5}}})
        ),
        is("variables.a.example", "wrong_type")
    );
    assert_eq!(
        found(json!({"channels": {"telegram": {"text": "x", "buttons": [{"name": "a", "type": "DS"}]}}})),
        is("channels.telegram.buttons[0]", "not_allowed")
    );
}

#[test]
fn sizes_are_limited() {
    let text = |length: usize| template(json!({"channels": {"sms": {"text": "x".repeat(length)}}}));
    assert_eq!(findings(&text(MAX_FIELD_BYTES)), vec![]);
    assert_eq!(findings(&text(MAX_FIELD_BYTES + 1))[0].1, "too_long");
    assert_eq!(findings(&text(MAX_TEMPLATE_BYTES))[0], ("template".to_owned(), "too_large".to_owned()));
    let variables: Map<String, Value> =
        (0..=MAX_VARIABLES).map(|at| (format!("v{at}"), json!({"type": "string"}))).collect();
    let many = template(json!({"channels": {"sms": {"text": "x"}}, "variables": variables}));
    assert_eq!(findings(&many)[0].1, "too_many");
}

#[test]
fn a_syntax_error_names_its_line() {
    let errors = single("sms", "text", "a\nb\n{{ c + }}", json!({"c": "string"})).validate().unwrap_err();
    assert!(errors[0].detail.starts_with("line 3: "), "{}", errors[0].detail);
}

#[test]
fn data_is_checked_strictly() {
    let template = template(json!({
        "channels": {"sms": {"text": "x"}},
        "variables": {
            "s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": "number"}, "b": {"type": "boolean"},
            "o": {"type": "object"}, "a": {"type": "array"},
            "note": {"type": "string", "required": false}, "greeting": {"type": "string", "default": "Hello"}
        }
    }));
    let good = json!({"s": "x", "i": 3, "n": 1.5, "b": true, "o": {}, "a": []});
    assert_eq!(template.check_data(&data(good.clone())), Ok(()));
    let check = |change: fn(&mut Value)| {
        let mut values = good.clone();
        change(&mut values);
        let errors = template.check_data(&data(values)).err().unwrap_or_default();
        errors.into_iter().map(|error| format!("{} {}", error.field, error.code)).collect::<Vec<_>>()
    };
    assert_eq!(check(|v| v["s"] = json!(1)), ["data.s wrong_type"]);
    assert_eq!(check(|v| v["i"] = json!(1.5)), ["data.i wrong_type"]);
    assert!(check(|v| v["i"] = json!(2.0)).is_empty());
    assert_eq!(check(|v| v["n"] = json!("1")), ["data.n wrong_type"]);
    assert_eq!(check(|v| v["s"] = Value::Null), ["data.s wrong_type"]);
    assert_eq!(check(|v| drop(v.as_object_mut().unwrap().remove("s"))), ["data.s missing"]);
    assert_eq!(check(|v| v["zz"] = json!(1)), ["data.zz unknown_variable"]);
    assert!(check(|v| v["note"] = Value::Null).is_empty());
    assert_eq!(check(|v| v["s"] = json!("x".repeat(data::MAX_DATA_BYTES))), ["data too_large"]);
    assert_eq!(check(|v| v["a"] = json!(vec![1; data::MAX_DATA_VALUES])), ["data too_large"]);
    assert_eq!(
        check(|v| v["a"] = (0..data::MAX_DATA_DEPTH + 1).fold(json!([]), |inner, _| json!([inner]))),
        ["data too_large"]
    );
}

#[test]
fn optional_variables_render_as_nothing_or_their_default() {
    let template = template(json!({
        "channels": {"sms": {"text":
            "{{ greeting }}{{ note }}.{% if note %}yes{% else %}no{% endif %}.{{ note|default('-')|upper }}.{{ note is defined }}"}},
        "variables": {"note": {"type": "string", "required": false}, "greeting": {"type": "string", "default": "Hi"}}
    }));
    assert_eq!(template.validate(), Ok(()));
    let text = |values| template.render(Channel::Sms, None, &data(values)).unwrap().text;
    assert_eq!(text(json!({})), "Hi.no.-.false");
    assert_eq!(text(json!({"note": "x", "greeting": null})), "Hix.yes.X.true");
}

#[test]
fn missing_values_are_errors_that_do_not_repeat_data() {
    let secret = "hunter2";
    let cases = [
        ("{{ a }}", json!({"a": "string"}), json!({})),
        ("{{ o.total }}", json!({"o": "object"}), json!({"o": {"x": secret}})),
        ("{{ o.a.b }}", json!({"o": "object"}), json!({"o": {}})),
        ("{{ o.total|upper }}", json!({"o": "object"}), json!({"o": {"x": secret}})),
        ("{% for x in n %}{% endfor %}", json!({"n": "number"}), json!({"n": 12345})),
        ("{{ s|int }}", json!({"s": "string"}), json!({"s": secret})),
        ("{{ s - 1 }}", json!({"s": "string"}), json!({"s": secret})),
        ("{{ s / s }}", json!({"s": "string"}), json!({"s": secret})),
        ("{{ n // 0 }}", json!({"n": "integer"}), json!({"n": 12345})),
        ("{{ s|join('x')|fixed }}", json!({"s": "string"}), json!({"s": secret})),
    ];
    for (source, variables, values) in cases {
        let error = sms(source, variables, values).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(secret) && !shown.contains("12345"), "{shown}");
    }
    assert_eq!(
        sms("a\n{{ o.total }}", json!({"o": "object"}), json!({"o": {}})),
        Err(RenderError::MissingValue { field: "sms.text".into(), line: 2 })
    );
}

#[test]
fn the_language_does_what_texts_need() {
    let text = |source, values: Value| {
        let kinds: Map<String, Value> = values
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| {
                let kind = match value {
                    Value::Array(_) => "array",
                    Value::Object(_) => "object",
                    Value::String(_) => "string",
                    Value::Bool(_) => "boolean",
                    _ => "number",
                };
                (name.clone(), kind.into())
            })
            .collect();
        sms(source, kinds.into(), values).unwrap()
    };
    let list = json!({"list": [{"n": "a", "q": 1}, {"n": "b", "q": 2}]});
    assert_eq!(
        text(
            "{% for x in list %}{{ loop.index }}.{{ x.n }}×{{ x.q }}{% if not loop.last %}, {% endif %}{% endfor %}",
            list
        ),
        "1.a×1, 2.b×2"
    );
    assert_eq!(
        text("{{ l|join(', ') }} {{ l|first }}{{ l|last }} {{ l|length }}", json!({"l": ["x", "y"]})),
        "x, y xy 2"
    );
    assert_eq!(
        text("{{ n|thousands }} {{ n|fixed(2) }} {{ n|round|int }}", json!({"n": 1234567.891})),
        "1,234,568 1234567.89 1234568"
    );
    assert_eq!(text("{{ n|thousands(1) }} {{ n|abs }}", json!({"n": -1234})), "-1,234.0 1234");
    assert_eq!(
        text(
            "{{ s|title }} {{ s|capitalize }} {{ s|replace('o', '0') }} {{ s|truncate(4) }}",
            json!({"s": "foo BAR"})
        ),
        "Foo Bar Foo bar f00 BAR foo…"
    );
    assert_eq!(text("{{ s|urlencode }}", json!({"s": "a b&가"})), "a%20b%26%EA%B0%80");
    assert_eq!(
        text(
            "{{ b }} {{ 'y' if b else 'n' }} {{ o.a ~ '!' }} {{ o|tojson }}",
            json!({"b": true, "o": {"a": 1}})
        ),
        r#"true y 1! {"a":1}"#
    );
    assert_eq!(text("{{ '{{' }} {# gone #}x", json!({})), "{{ x");
    assert_eq!(
        text("{% for k, v in o|items %}{{ k }}={{ v }};{% endfor %}", json!({"o": {"a": 1, "b": 2}})),
        "a=1;b=2;"
    );
    assert_eq!(
        text(
            "{{ s is startingwith 'a' }} {{ n is divisibleby(2) }} {{ n is divisibleby(0) }}",
            json!({"s": "ab", "n": 4})
        ),
        "true true false"
    );
}

#[test]
fn values_are_never_templates() {
    assert_eq!(
        sms("{{ a }}", json!({"a": "string"}), json!({"a": "{{ 7 * 7 }}{% raw %}"})).unwrap(),
        "{{ 7 * 7 }}{% raw %}"
    );
    let alimtalk = template(json!({
        "channels": {"alimtalk": {"template_code": "T", "text": "#{a}#{b}"}},
        "variables": {"a": {"type": "string"}, "b": {"type": "string"}}
    }));
    let rendered = alimtalk.render(Channel::Alimtalk, None, &data(json!({"a": "#{b}", "b": "x"}))).unwrap();
    assert_eq!(rendered.text, "#{b}x");
}

#[test]
fn undeclared_data_is_not_reachable() {
    let template = single("sms", "text", "{{ a }}", json!({"a": "string"}));
    let rendered = template.render(Channel::Sms, None, &data(json!({"a": "1", "b": "2"}))).unwrap();
    assert_eq!(rendered.text, "1");
    for source in ["{{ b }}", "{{ self }}", "{{ debug }}", "{{ range }}", "{{ loop }}", "{{ a if b else a }}"]
    {
        let template = single("sms", "text", source, json!({"a": "string"}));
        let reachable = template.validate().is_ok()
            && template.render(Channel::Sms, None, &data(json!({"a": "1", "b": "2"}))).is_ok();
        assert!(!reachable, "{source}");
    }
}

#[test]
fn links_are_checked_after_rendering() {
    let template = single("push", "url", "{{ a }}", json!({"a": "string"}));
    let template = Template {
        channels: template
            .channels
            .into_iter()
            .map(|(key, body)| (key, Body { body: Some("x".into()), ..body }))
            .collect(),
        ..template
    };
    assert_eq!(template.validate(), Ok(()));
    let url = |value: &str| template.render(Channel::Fcm, None, &data(json!({"a": value}))).map(|r| r.url);
    assert_eq!(url("https://e.com/x"), Ok(Some("https://e.com/x".into())));
    assert_eq!(url(""), Ok(None));
    for bad in [
        "javascript:alert(1)",
        "JAVASCRIPT:alert(1)",
        "java\nscript:x",
        "data:text/html,x",
        "/x",
        "https://e.com/\r\nX: 1",
    ] {
        assert_eq!(url(bad), Err(RenderError::InvalidUrl { field: "push.url".into() }), "{bad}");
    }
}

/// A template bomb must be refused, or fail within its limits. Each case has its source, types and values.
#[test]
fn bombs_do_not_go_off() {
    let big = "x".repeat(data::MAX_DATA_BYTES - 1024);
    let list = json!(vec![1; data::MAX_DATA_VALUES - 8]);
    let refused = [
        "{% set a = 'xxxxxxxxxx' %}".to_owned() + &"{% set a = a ~ a %}".repeat(40) + "{{ a }}",
        "{{ 'x' * 100000000 }}".to_owned(),
        "{% for i in range(100000000) %}x{% endfor %}".to_owned(),
        "{{ '%1000000000d'|format(1) }}".to_owned(),
        "{{ s|center(1000000000) }}".to_owned(),
        "{{ s|indent(1000000000) }}".to_owned(),
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{{ ".to_owned() + &"(".repeat(10_000) + "s" + &")".repeat(10_000) + " }}",
        "{{ ".to_owned() + &"-".repeat(30_000) + "1 }}",
        "{{ ".to_owned() + &"not ".repeat(10_000) + "s }}",
        "{{ s".to_owned() + &" ~ s".repeat(10_000) + " }}",
        "{{ s".to_owned() + &".a".repeat(20_000) + " }}",
        "{{ s".to_owned() + &"|upper".repeat(8_000) + " }}",
        "{{ s".to_owned() + &" if s".repeat(8_000) + " }}",
        "{% if s %}".repeat(5_000),
        "{% if s %}".to_owned() + &"{% elif s %}".repeat(4_000) + "{% endif %}",
        "{% for a in l recursive %}{{ loop(l) }}{% endfor %}".to_owned(),
    ];
    for source in &refused {
        let template = single("sms", "text", source, json!({"s": "string", "l": "array"}));
        assert!(template.validate().is_err(), "{}", &source[..source.len().min(60)]);
        assert!(template.render(Channel::Sms, None, &data(json!({"s": "x", "l": []}))).is_err());
    }
    let steps = Err(RenderError::TooManySteps { field: "sms.text".into() });
    let output = Err(RenderError::OutputTooLarge { field: "sms.text".into() });
    let bounded = [
        (
            "{% for a in l %}{% for b in l %}{% for c in l %}{% endfor %}{% endfor %}{% endfor %}".to_owned(),
            &steps,
        ),
        ("{% for a in l %}{% for b in l %}x{% endfor %}{% endfor %}".to_owned(), &steps),
        ("{% for a in l %}{{ s }}{% endfor %}".to_owned(), &output),
        ("{{ s ~ s ~ s }}".to_owned(), &output),
        ("{{ l|join(s) }}".to_owned(), &output),
        ("{{ s|replace('x', s) }}".to_owned(), &output),
        ("{% for a in l %}{% if s|upper == 'x' %}{% endif %}{% endfor %}".to_owned(), &steps),
        ("{% for a in l %}{% if s ~ s ~ s == 'x' %}{% endif %}{% endfor %}".to_owned(), &steps),
        (
            "{% for a in l %}{% for b in l %}{% if s in s %}{% endif %}{% endfor %}{% endfor %}".to_owned(),
            &steps,
        ),
        ("{% for a in l %}{% if 2 in l + l + l %}{% endif %}{% endfor %}".to_owned(), &steps),
        ("{% for a in l + l + l %}{% for b in l %}{% endfor %}{% endfor %}".to_owned(), &steps),
        ("{{ s }}".repeat(2), &output),
        ("{{ q }}".to_owned(), &output),
    ];
    for (source, expected) in &bounded {
        let mut template = single("sms", "text", source, json!({"s": "string", "l": "array"}));
        let mut values = json!({"s": big, "l": list});
        if source == "{{ q }}" {
            // Escaping makes five characters of one.
            template = single("telegram", "text", source, json!({"q": "string"}));
            values = json!({"q": "&".repeat(30_000)});
        }
        assert_eq!(template.validate(), Ok(()), "{source}");
        let channel = if source == "{{ q }}" { Channel::Telegram } else { Channel::Sms };
        let result = template.render(channel, None, &data(values)).map(|rendered| rendered.text.len());
        match (result, *expected) {
            (Err(RenderError::OutputTooLarge { .. }), Err(RenderError::OutputTooLarge { .. })) => {}
            (result, expected) => assert_eq!(result, *expected, "{source}"),
        }
    }
    let template = single("sms", "text", "{{ s }}", json!({"s": "string"}));
    let huge = data(json!({"s": "x".repeat(data::MAX_DATA_BYTES + 1)}));
    assert_eq!(template.render(Channel::Sms, None, &huge), Err(RenderError::DataTooLarge));
}

#[test]
fn the_deepest_allowed_source_compiles_on_a_small_stack() {
    let expressions = [
        format!("{{{{ {}s{} }}}}", "(".repeat(8), ")".repeat(8)),
        format!("{{{{ s{} }}}}", ".a".repeat(63)),
        format!("{{{{ s{} }}}}", "|upper".repeat(63)),
        format!("{{{{ {}s }}}}", "not ".repeat(127)),
        format!("{{{{ {}1 }}}}", "- ".repeat(126)),
        format!("{{{{ s{} }}}}", " and s".repeat(63)),
        format!("{}{}", "{% if s %}".repeat(32), "{% endif %}".repeat(32)),
        format!("{{% if s %}}{}{{% endif %}}", "{% elif s %}".repeat(31)),
        format!("{{{{ {}s{} }}}}", "[".repeat(8), "]".repeat(8)),
    ];
    let thread = std::thread::Builder::new().stack_size(1024 * 1024).spawn(move || {
        for source in expressions {
            let template = single("sms", "text", &source, json!({"s": "string"}));
            assert_eq!(template.validate(), Ok(()), "{source}");
            let _ = template.render(Channel::Sms, None, &data(json!({"s": "x"})));
        }
    });
    thread.unwrap().join().unwrap();
}

/// Strings that try to break out of their place.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        "(?s).{0,40}",
        "[<>&\"'/a=; \r\n\t\0]{0,40}",
        Just("</b><script>alert(1)</script>".to_owned()),
        Just("\"><img src=x onerror=y>".to_owned()),
        Just("x\r\nBcc: a@example.com".to_owned()),
        Just("{{ a }}{% if a %}".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_value_becomes_markup(value in hostile()) {
        let source = "[{{ a }}|{{ a|upper }}|{{ a|default('x') }}|{{ a|replace('a', '<') }}|{{ a ~ '<' }}\
                      |{{ l }}|{{ l|tojson }}|{{ l|join('<') }}|{{ l|first }}|{{ a|truncate(5, '<') }}\
                      |{% for x in l %}{{ x }}{% endfor %}]";
        let template = template(json!({
            "channels": {"telegram": {"text": source}, "email": {"subject": "s", "html": source}},
            "variables": {"a": {"type": "string"}, "l": {"type": "array"}}
        }));
        prop_assert_eq!(template.validate(), Ok(()));
        let values = data(json!({"a": value, "l": [value, {"k": value}]}));
        let values_for_first = data(json!({"a": value, "l": [value]}));
        for values in [values, values_for_first] {
            let telegram = template.render(Channel::Telegram, None, &values).unwrap().text;
            let email = template.render(Channel::Email, None, &values).unwrap().html.unwrap();
            for html in [telegram, email] {
                prop_assert!(!html.contains(['<', '>', '"', '\'', '\0']), "{}", html);
                for (at, _) in html.match_indices('&') {
                    let known = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
                    prop_assert!(known.iter().any(|entity| html[at..].starts_with(entity)), "{}", html);
                }
            }
        }
    }

    #[test]
    fn escaping_loses_nothing_that_is_shown(value in "\\PC{0,60}") {
        let html = escape::html(&value).into_owned();
        let back = html.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'").replace("&amp;", "&");
        prop_assert_eq!(back, value);
    }

    #[test]
    fn no_value_ends_a_subject_or_title(value in hostile()) {
        let template = template(json!({
            "channels": {
                "email": {"subject": "{{ a }} {{ '\\n' }} {{ l|join('\\r\\n') }}", "text": "x"},
                "push": {"title": "{{ a }}", "body": "x"},
                "alimtalk": {"template_code": "T", "title": "#{a}", "text": "#{a}"}
            },
            "variables": {"a": {"type": "string"}, "l": {"type": "array"}}
        }));
        prop_assert_eq!(template.validate(), Ok(()));
        let values = data(json!({"a": value, "l": [value, value]}));
        let subject = template.render(Channel::Email, None, &values).unwrap().subject.unwrap();
        let title = template.render(Channel::Apns, None, &values).unwrap().title.unwrap();
        let alimtalk = template.render(Channel::Alimtalk, None, &values).unwrap().title.unwrap();
        for line in [subject, title, alimtalk] {
            prop_assert!(!line.contains(char::is_control), "{:?}", line);
        }
    }

    #[test]
    fn any_source_either_compiles_or_says_why(source in "([{}%#|.()\\[\\]+~*'\" a-c\n-]|\\{\\{|\\}\\}|\\{%|%\\}|if |endif|for |in |endfor|\\|upper){0,30}") {
        let template = single("sms", "text", &source, json!({"a": "string", "b": "array", "c": "object"}));
        if template.validate().is_ok() {
            let _ = template.render(Channel::Sms, None, &data(json!({"a": "x", "b": [1, "y"], "c": {"a": 1}})));
        }
    }
}
