//! One manifest file: from its text to the objects in it.

use std::sync::Arc;

use super::document::{self, Fault, Mark, Tree, Value};
use super::services;
use crate::objects::Node;
use crate::source::node::{self, NodeObject};

/// The objects of a file that the daemon knows, each with where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// Nodes.
    pub nodes: Vec<(Mark, Arc<Node>)>,
    /// What the proxy reads; none where it isn't read for one.
    pub services: Option<services::Contents>,
}

/// For whom manifests are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// For the network: of all kinds only Nodes count.
    Network,
    /// For the Service proxy too.
    NetworkAndProxy,
}

/// Decodes a whole file: several documents, `List`s, kinds that the daemon has no use for.
///
/// # Errors
/// Everything that is wrong with it. A file counts as a whole or not at all, so that half a change is never acted upon.
pub fn decode(text: &str, readers: Readers) -> Result<Contents, Vec<Fault>> {
    let documents = document::parse(text).map_err(|fault| vec![fault])?;
    let services = (readers == Readers::NetworkAndProxy).then(services::Contents::default);
    let mut contents = Contents { nodes: Vec::new(), services };
    let mut faults = Vec::new();
    for document in &documents {
        contents.add(document, "", &mut faults);
    }
    if faults.is_empty() { Ok(contents) } else { Err(faults) }
}

impl Contents {
    /// Adds the object or the list of objects in `tree`; `at` is the field of the document that it stands in.
    fn add(&mut self, tree: &Tree, at: &str, faults: &mut Vec<Fault>) {
        let (api_version, kind) = match identity(tree) {
            Ok(identity) => identity,
            Err(fault) => return faults.push(Fault { field: join(at, &fault.field), ..fault }),
        };
        if let Some(Err(fault)) = self.services.as_mut().map(|it| it.add(tree, api_version, kind)) {
            return faults.push(Fault { field: join(at, &fault.field), ..fault });
        }
        match (api_version, kind) {
            ("v1", "Node") => match decode_node(tree) {
                Ok(node) => self.nodes.push((tree.mark, Arc::new(node))),
                Err(found) => {
                    faults.extend(
                        found.into_iter().map(|fault| Fault { field: join(at, &fault.field), ..fault }),
                    );
                }
            },
            ("v1", "List" | "NodeList" | "ServiceList")
            | ("discovery.k8s.io/v1", "EndpointSliceList")
            | ("networking.k8s.io/v1", "ServiceCIDRList") => self.add_items(tree, at, faults),
            _ => {}
        }
    }

    fn add_items(&mut self, tree: &Tree, at: &str, faults: &mut Vec<Fault>) {
        let Some(items) = tree.get("items") else { return };
        match &items.value {
            Value::Null => {}
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.add(item, &join(at, &format!("items[{index}]")), faults);
                }
            }
            _ => {
                let what = "is no list".to_owned();
                faults.push(Fault { mark: items.mark, field: join(at, "items"), what });
            }
        }
    }
}

fn join(at: &str, field: &str) -> String {
    let dot = if at.is_empty() || field.is_empty() { "" } else { "." };
    format!("{at}{dot}{field}")
}

/// `apiVersion` and `kind`.
fn identity(tree: &Tree) -> Result<(&str, &str), Fault> {
    if !matches!(tree.value, Value::Map(_)) {
        let what = "is no object with apiVersion and kind".to_owned();
        return Err(Fault { mark: tree.mark, field: String::new(), what });
    }
    let text_of = |key: &str| {
        let found = tree.get(key);
        let mark = found.map_or(tree.mark, |value| value.mark);
        let what = if found.is_some() { "is no text" } else { "is missing" };
        found.and_then(Tree::text).ok_or_else(|| Fault { mark, field: key.to_owned(), what: what.to_owned() })
    };
    Ok((text_of("apiVersion")?, text_of("kind")?))
}

fn decode_node(tree: &Tree) -> Result<Node, Vec<Fault>> {
    let object: NodeObject = tree.decode().map_err(|fault| vec![fault])?;
    let (node, faults) = node::decode(&object);
    if faults.is_empty() {
        return Ok(node);
    }
    let placed = faults.into_iter().map(|fault| {
        let mark = tree.locate(&fault.field);
        Fault { mark, field: fault.field, what: fault.what }
    });
    Err(placed.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<(u64, u64, String)> {
        let contents = decode(text, Readers::NetworkAndProxy).unwrap();
        contents.nodes.iter().map(|(mark, node)| (mark.line, mark.column, node.name.clone())).collect()
    }

    fn faults(text: &str) -> Vec<String> {
        let faults = decode(text, Readers::NetworkAndProxy).unwrap_err();
        faults.iter().map(|f| format!("{}:{}: {}: {}", f.mark.line, f.mark.column, f.field, f.what)).collect()
    }

    #[test]
    fn documents_lists_and_other_kinds() {
        let text = "\
# comment
---
apiVersion: v1
kind: Node
metadata: {name: a}
---
---
apiVersion: apps/v1
kind: Deployment
spec: {anything: [goes]}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Node
  metadata:
    name: b
- {apiVersion: v1, kind: Secret}
";
        assert_eq!(names(text), [(3, 1, "a".to_owned()), (15, 3, "b".to_owned())]);
        for empty in ["", "# nothing\n", "---\n---\n", "null\n", "{apiVersion: v1, kind: List, items: null}"]
        {
            assert_eq!(names(empty), [], "{empty:?}");
        }
    }

    #[test]
    fn json_is_read_with_its_tabs_and_escapes() {
        let text = "{\n\t\"apiVersion\": \"v1\", \"kind\": \"Node\",\n\t\"metadata\": {\"name\": \"\\u0061\",\r\n\t\t\"annotations\": {\"x\": \"\\ud83d\\ude00 \\/\"}}\n}\n";
        assert_eq!(names(text), [(1, 1, "a".to_owned())]);
    }

    #[test]
    fn every_fault_has_line_column_and_field() {
        let node = |rest: &str| format!("apiVersion: v1\nkind: Node\nmetadata: {{name: a}}\n{rest}");
        let rows = [
            (node("spec:\n  podCIDRs:\n  - 10.244.1.0/24\n  - fd00::/129\n"), "7:5: spec.podCIDRs[1]: `fd00::/129` is no CIDR such as 10.244.1.0/24 or fd00:10:1::/64"),
            (node("spec:\n  podCIDRs: 10.244.1.0/24\n"), "5:13: spec.podCIDRs: invalid type: string \"10.244.1.0/24\", expected a sequence"),
            (node("status:\n  addresses:\n  - {type: InternalIP, address: 192.0.2.256}\n"), "6:33: status.addresses[0].address: `192.0.2.256` is no IP address"),
            (node("status:\n  addresses:\n  - {address: 192.0.2.1}\n"), "6:5: status.addresses[0]: missing field `type`"),
            ("kind: Node\n".into(), "1:1: apiVersion: is missing"),
            ("apiVersion: v1\nkind: [Node]\n".into(), "2:7: kind: is no text"),
            ("apiVersion: v1\nkind: Node\n".into(), "1:1: metadata.name: is missing"),
            ("just text\n".into(), "1:1: : is no object with apiVersion and kind"),
            ("apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Node\n  metadata: {name: A_}\n".into(), "6:20: items[0].metadata.name: `A_` is no name of a node (a-z, 0-9, `-` and `.`, at most 253 characters)"),
            ("apiVersion: v1\nkind: List\nitems: 7\n".into(), "3:8: items: is no list"),
            ("a: b: c\n".into(), "1:5: : mapping values are not allowed in this context"),
            (node("metadata: {name: b}\n"), "4:1: : duplicate mapping key `metadata` is not allowed here"),
            (node("other: {annotations: {bowline.dev/wireguard-public-key: x}}\nspec: [\n"), "5:7: : unclosed bracket '['"),
            ("apiVersion: v1\nkind: Node\nmetadata:\n  name: a\n  annotations:\n    bowline.dev/wireguard-public-key: abc\n".into(), "6:39: metadata.annotations[bowline.dev/wireguard-public-key]: `abc` is not base64"),
        ];
        for (text, fault) in rows {
            assert_eq!(faults(&text), [fault], "{text}");
        }
    }

    #[test]
    fn one_fault_refuses_the_whole_file_and_all_are_named() {
        let text = "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: b}\nspec: {podCIDR: x}\nstatus: {addresses: [{type: InternalIP, address: y}]}\n";
        assert_eq!(faults(text).len(), 2);
    }

    #[test]
    fn a_small_file_does_not_grow_into_a_large_tree() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(decode(&text, Readers::NetworkAndProxy).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_every_fault_is_within_it(text in r"(?s).{0,200}") {
            within(&text);
        }

        #[test]
        fn no_broken_manifest_panics_and_every_fault_is_within_it(
            cut in 0usize..400,
            kept in 0usize..40,
            put in r#"[-\[\]{}:,&*!|>'"%@` \n\t#a-z0-9./é]{0,8}"#,
        ) {
            let text = "\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Node
  metadata: {name: a, annotations: {bowline.dev/wireguard-public-key: \"AQEB\"}, creationTimestamp: 2026-01-01T00:00:00Z}
  spec:
    podCIDR: 10.244.1.0/24
    podCIDRs: [10.244.1.0/24, 'fd00:10:1::/64']
  status:
    addresses:
    - {type: InternalIP, address: 192.0.2.1}
    conditions: [{type: NetworkUnavailable, status: \"True\"}]
";
            let cut = cut.min(text.len());
            let rest = (cut + kept).min(text.len());
            within(&format!("{}{put}{}", &text[..cut], &text[rest..]));
        }
    }

    fn within(text: &str) {
        let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count() as u64 + 1;
        for fault in decode(text, Readers::NetworkAndProxy).err().unwrap_or_default() {
            assert!(fault.mark.line <= lines, "{text:?}: {fault:?}");
            assert!(!fault.what.is_empty(), "{text:?}: {fault:?}");
        }
    }
}
