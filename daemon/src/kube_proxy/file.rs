//! The file: a KubeProxyConfiguration of `kubeproxy.config.k8s.io/v1alpha1`.
//!
//! As in kube-proxy, a field that nobody knows is told and passed over, and one with a wrong type is an error.

use std::path::Path;

use super::given::{Given, Settings};
use super::table::{SETTINGS, Setting, Zero};
use super::value::Value;
use crate::source::manifests::document::{self, Tree, Value as Yaml};

/// `apiVersion` of the file.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// `kind` of the file.
pub const KIND: &str = "KubeProxyConfiguration";

/// Reads the file at `path`. `warnings` gets a sentence for every field that is unknown.
///
/// # Errors
/// A sentence with the file, the line, the field and the value.
pub fn read(path: &Path, warnings: &mut Vec<String>) -> Result<Settings, String> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| format!("--config: {shown}: {error}"))?;
    parse(&text, &shown, warnings)
}

/// [`read`] from text; `name` is what errors call the file.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &str, name: &str, warnings: &mut Vec<String>) -> Result<Settings, String> {
    let documents = document::parse(text).map_err(|fault| match fault.mark.line {
        0 => format!("{name}: {}", fault.what),
        line => format!("{name}:{line}: {}", fault.what),
    })?;
    let [tree] = &documents[..] else {
        return Err(format!("{name}: has {} documents, not one", documents.len()));
    };
    let mut file = File { name, warnings, settings: Settings::default() };
    file.expect(tree, "apiVersion", API_VERSION)?;
    file.expect(tree, "kind", KIND)?;
    file.walk(tree, "")?;
    Ok(file.settings)
}

struct File<'a> {
    name: &'a str,
    warnings: &'a mut Vec<String>,
    settings: Settings,
}

impl File<'_> {
    fn place(&self, tree: &Tree, field: &str) -> String {
        match tree.mark.line {
            0 => format!("{}: {field}", self.name),
            line => format!("{}:{line}: {field}", self.name),
        }
    }

    fn expect(&self, tree: &Tree, field: &str, wanted: &str) -> Result<(), String> {
        match tree.get(field) {
            Some(it) if it.text() == Some(wanted) => Ok(()),
            Some(it) => Err(format!("{}: `{}` is not {wanted}", self.place(it, field), shown(it))),
            None => Err(format!("{}: {field}: is missing; it must be {wanted}", self.name)),
        }
    }

    fn walk(&mut self, tree: &Tree, above: &str) -> Result<(), String> {
        let Yaml::Map(entries) = &tree.value else {
            if tree.value == Yaml::Null {
                return Ok(());
            }
            return Err(format!("{}: `{}` is no object", self.place(tree, above), shown(tree)));
        };
        for (key, inner) in entries {
            let field = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
            if let Some(setting) = SETTINGS.iter().find(|setting| setting.field == field) {
                self.take(setting, inner)?;
            } else if is_section(&field) {
                self.walk(inner, &field)?;
            } else if !(above.is_empty() && ["apiVersion", "kind"].contains(&key.as_str())) {
                let place = self.place(inner, &field);
                self.warnings.push(format!("{place} is no field of kube-proxy 1.36 and has no effect"));
            }
        }
        Ok(())
    }

    fn take(&mut self, setting: &'static Setting, tree: &Tree) -> Result<(), String> {
        let place = self.place(tree, setting.field);
        let wrong = |what| format!("{place}: `{}` is {what}", shown(tree));
        let Some(value) = setting.kind.of_field(tree).map_err(wrong)? else { return Ok(()) };
        if setting.zero == Zero::Silent && is_zero(&value) {
            return Ok(());
        }
        self.settings.set(setting.field, Given { value, place });
        Ok(())
    }
}

fn is_section(field: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.field.strip_prefix(field).is_some_and(|rest| rest.starts_with('.')))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Int(value) => *value == 0,
        Value::Float(value) => *value == 0.0,
        Value::Text(value) => value.is_empty(),
        Value::Duration(value) => value.0 == 0,
        Value::Texts(values) => values.is_empty(),
        Value::Gates(gates) => gates.is_empty(),
        Value::Patterns(patterns) => patterns.is_empty(),
    }
}

/// A value in a sentence.
fn shown(tree: &Tree) -> String {
    match &tree.value {
        Yaml::Null => "null".to_owned(),
        Yaml::Bool(value) => value.to_string(),
        Yaml::Int(value) => value.to_string(),
        Yaml::Float(value) => value.to_string(),
        Yaml::Text(value) => value.clone(),
        Yaml::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Yaml::Map(entries) => {
            let inner: Vec<String> =
                entries.iter().map(|(key, tree)| format!("{key}: {}", shown(tree))).collect();
            format!("{{{}}}", inner.join(", "))
        }
    }
}
