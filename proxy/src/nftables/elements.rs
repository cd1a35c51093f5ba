//! Elements, many of them in little room.
//!
//! At 5,000 Services with four endpoints each there are 30,000, and an audit holds them twice. As [`Element`]s of their
//! own they would be six times as large as packed: one after the other, with an index that is sorted.

use kernel::nft::{Data, Element, End};

use super::layout::{Entry, Map};

/// Elements sorted by what makes them one of their kind: map, key and end. No two are the same in that.
#[derive(Debug, Clone, Default)]
pub(super) struct Elements {
    bytes: Vec<u8>,
    index: Vec<Place>,
}

/// Where an element is in the bytes: identity, data, comment.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: u32,
    identity: u16,
    data: u16,
    comment: u16,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) map: Map,
    pub(super) key: &'a [u8],
    /// What is compared: map, key and end.
    pub(super) identity: &'a [u8],
    /// What it is mapped to; a verdict, which none of these maps has, as the empty value, which none has either.
    pub(super) data: Option<&'a [u8]>,
    comment: &'a [u8],
}

/// A set element and a map element whose data is empty are not the same.
const NO_DATA: u16 = u16::MAX;
/// The identity's first bytes: map, length of the key, what kind of end.
const HEAD: usize = 3;

impl Elements {
    /// Sorts entries; of two of a kind one stays.
    pub(super) fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut elements = Elements::default();
        elements.extend(entries);
        elements.sort(0);
        elements
    }

    /// Adds the elements of one map, which comes after all that are there already. `list` shows them and says whether it is
    /// sure of them; if not, or if one comes twice, it is asked again, `tries` times at most.
    pub(super) fn append<E>(
        &mut self,
        tries: usize,
        mut list: impl FnMut(&mut dyn FnMut(Entry)) -> Result<bool, E>,
    ) -> Result<(), E> {
        let (bytes, from) = (self.bytes.len(), self.index.len());
        for _ in 0..tries {
            self.bytes.truncate(bytes);
            self.index.truncate(from);
            let is_sure = list(&mut |entry| self.push(&entry))?;
            if self.sort(from) && is_sure {
                break;
            }
        }
        Ok(())
    }

    /// Adds one at the end. One that is longer than any can be is left out.
    pub(super) fn push(&mut self, Entry { map, element }: &Entry) {
        let (kind, end): (u8, &[u8]) = match &element.end {
            End::Single => (0, &[]),
            End::Last(last) => (1, last),
            End::Before(next) => (2, next),
            End::Open => (3, &[]),
        };
        let data = match &element.data {
            None => None,
            Some(Data::Value(value)) => Some(value.as_slice()),
            Some(Data::Verdict(_)) => Some(&[][..]),
        };
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).ok().filter(|length| *length < NO_DATA);
        let place = || {
            Some(Place {
                at: u32::try_from(self.bytes.len()).ok()?,
                identity: length(end)?.checked_add(u16::from(key_length(element)?) + HEAD as u16)?,
                data: data.map_or(Some(NO_DATA), length)?,
                comment: length(element.comment.as_bytes())?,
            })
        };
        let (Some(place), Some(key)) = (place(), key_length(element)) else { return };
        self.bytes.extend_from_slice(&[*map as u8, key, kind]);
        self.bytes.extend_from_slice(&element.key);
        self.bytes.extend_from_slice(end);
        self.bytes.extend_from_slice(data.unwrap_or_default());
        self.bytes.extend_from_slice(element.comment.as_bytes());
        self.index.push(place);
    }

    /// Sorts the index from there on; whether all are different.
    pub(super) fn sort(&mut self, from: usize) -> bool {
        let Elements { bytes, index } = self;
        index[from..].sort_by(|a, b| identity(bytes, a).cmp(identity(bytes, b)));
        let before = index.len();
        index.dedup_by(|later, earlier| identity(bytes, later) == identity(bytes, earlier));
        index.len() == before
    }

    /// The one at that place in the order.
    pub(super) fn nth(&self, at: usize) -> Option<Seen<'_>> {
        let place = self.index.get(at)?;
        let rest = self.bytes.get(place.at as usize..)?;
        let (identity, rest) = rest.split_at_checked(usize::from(place.identity))?;
        let data = if place.data == NO_DATA { 0 } else { usize::from(place.data) };
        let (data, rest) = rest.split_at_checked(data)?;
        Some(Seen {
            map: *Map::ALL.get(usize::from(*identity.first()?))?,
            key: identity.get(HEAD..HEAD + usize::from(*identity.get(1)?))?,
            identity,
            data: (place.data != NO_DATA).then_some(data),
            comment: rest.get(..usize::from(place.comment))?,
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Seen<'_>> {
        (0..self.index.len()).filter_map(|at| self.nth(at))
    }

    /// Those of one map.
    pub(super) fn of(&self, map: Map) -> impl Iterator<Item = Seen<'_>> {
        let from =
            self.index.partition_point(|place| identity(&self.bytes, place).first() < Some(&(map as u8)));
        let all = (from..self.index.len()).filter_map(|at| self.nth(at));
        all.take_while(move |element| element.map == map)
    }

    /// The one with this key, which is no interval.
    pub(super) fn find(&self, map: Map, key: &[u8]) -> Option<Seen<'_>> {
        let mut wanted = vec![map as u8, u8::try_from(key.len()).ok()?, 0];
        wanted.extend_from_slice(key);
        let at = self.index.binary_search_by(|place| identity(&self.bytes, place).cmp(&wanted)).ok()?;
        self.nth(at)
    }
}

impl Extend<Entry> for Elements {
    /// Adds them at the end, unsorted.
    fn extend<I: IntoIterator<Item = Entry>>(&mut self, entries: I) {
        entries.into_iter().for_each(|entry| self.push(&entry));
    }
}

fn key_length(element: &Element) -> Option<u8> {
    u8::try_from(element.key.len()).ok()
}

fn identity<'a>(bytes: &'a [u8], place: &Place) -> &'a [u8] {
    let at = place.at as usize;
    bytes.get(at..at + usize::from(place.identity)).unwrap_or_default()
}

impl Seen<'_> {
    /// Where its interval ends.
    pub(super) fn end(&self) -> End {
        let end = || self.identity.get(HEAD + self.key.len()..).unwrap_or_default().to_vec();
        match self.identity.get(2) {
            Some(1) => End::Last(end()),
            Some(2) => End::Before(end()),
            Some(3) => End::Open,
            _ => End::Single,
        }
    }

    /// As the kernel takes it.
    pub(super) fn element(&self) -> Element {
        Element {
            end: self.end(),
            data: self.data.map(|bytes| Data::Value(bytes.to_vec())),
            comment: String::from_utf8_lossy(self.comment).into_owned(),
            ..Element::raw(self.key.to_vec())
        }
    }
}

#[cfg(test)]
mod tests {
    use kernel::nft::Verdict;
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40);
        let end = prop_oneof![
            Just(End::Single),
            bytes().prop_map(End::Last),
            bytes().prop_map(End::Before),
            Just(End::Open)
        ];
        let data = prop::option::of(bytes().prop_map(Data::Value));
        (0..Map::ALL.len(), bytes(), end, data, ".{0,20}").prop_map(|(map, key, end, data, comment)| Entry {
            map: Map::ALL[map],
            element: Element { key, end, data, comment },
        })
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again_sorted_and_once(entries in prop::collection::vec(entry(), 0..40)) {
            let elements = Elements::new(entries.iter().cloned());
            for Entry { map, element } in &entries {
                let same = |seen: &Seen<'_>| (seen.map, seen.key, seen.end()) == (*map, &element.key[..], element.end.clone());
                prop_assert_eq!(elements.iter().filter(same).count(), 1);
                if element.end == End::Single {
                    let found = elements.find(*map, &element.key).map(|seen| seen.element());
                    let is_known = |found| entries.contains(&Entry { map: *map, element: found });
                    prop_assert!(found.is_some_and(is_known));
                }
            }
            let all: Vec<Entry> = elements.iter().map(|seen| Entry { map: seen.map, element: seen.element() }).collect();
            prop_assert!(all.iter().all(|entry| entries.contains(entry)));
            prop_assert!(all.is_sorted_by_key(|entry| entry.map));
            for map in Map::ALL {
                prop_assert_eq!(elements.of(map).count(), all.iter().filter(|entry| entry.map == map).count());
            }
        }
    }

    #[test]
    fn maps_are_numbered_in_their_order() {
        assert!(Map::ALL.iter().enumerate().all(|(number, map)| *map as usize == number));
    }

    #[test]
    fn a_listing_that_is_not_sure_or_tells_something_twice_is_taken_again() {
        let entry = |key: u8| Entry { map: Map::Endpoints, element: Element::raw(vec![key]) };
        let mut listings = [(vec![1, 1, 2], true), (vec![1], false), (vec![3, 2, 1], true)].into_iter();
        let mut elements = Elements::new([Entry { map: Map::ClusterIps, element: Element::raw(vec![9]) }]);
        let listed = elements.append(10, |show| {
            let (keys, is_sure) = listings.next().ok_or("asked too often")?;
            keys.into_iter().for_each(|key| show(entry(key)));
            Ok::<_, &str>(is_sure)
        });
        assert_eq!(listed, Ok(()));
        let keys: Vec<u8> = elements.iter().map(|seen| seen.key[0]).collect();
        assert_eq!(keys, [9, 1, 2, 3]);
    }

    #[test]
    fn a_verdict_is_like_no_value() {
        let pack = |data: Option<Data>| {
            let element = Element { data, ..Element::raw(vec![1]) };
            let elements = Elements::new([Entry { map: Map::Frontends, element }]);
            elements.nth(0).and_then(|seen| seen.data.map(<[u8]>::to_vec))
        };
        assert_eq!(pack(Some(Data::Verdict(Verdict::Goto("c".into())))), Some(vec![]));
        assert_eq!(pack(Some(Data::Value(vec![1]))), Some(vec![1]));
        assert_eq!(pack(None), None);
    }
}
