//! Things with a number: slots that are reused, numbers that are not.

/// Names one thing for as long as it lives; never names another afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u64);

impl Key {
    /// The key as a number, for ids that travel.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The key of a number that travelled.
    pub fn of(number: u64) -> Key {
        Key(number)
    }

    fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
}

/// A table of things by key.
#[derive(Debug)]
pub struct Slab<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Adds a thing.
    pub fn insert(&mut self, thing: T) -> Key {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.places.push((0, None));
                self.places.len() as u32 - 1
            }
        };
        let place = &mut self.places[index as usize];
        place.0 = place.0.wrapping_add(1);
        place.1 = Some(thing);
        Key(u64::from(place.0) << 32 | u64::from(index))
    }

    /// Removes a thing; `None` if its key names nothing.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let place = self.places.get_mut(key.index())?;
        if u64::from(place.0) != key.0 >> 32 {
            return None;
        }
        let thing = place.1.take()?;
        self.free.push(key.index() as u32);
        Some(thing)
    }

    /// A thing, if its key still names one.
    pub fn get(&self, key: Key) -> Option<&T> {
        let place = self.places.get(key.index())?;
        if u64::from(place.0) == key.0 >> 32 { place.1.as_ref() } else { None }
    }

    /// A thing, to be changed.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let place = self.places.get_mut(key.index())?;
        if u64::from(place.0) == key.0 >> 32 { place.1.as_mut() } else { None }
    }

    /// Number of things.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every key, in order of place.
    pub fn keys(&self) -> Vec<Key> {
        self.iter().map(|(key, _)| key).collect()
    }

    /// Every thing with its key, in order of place.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.places.iter().enumerate().filter_map(|(index, (generation, thing))| {
            thing.as_ref().map(|thing| (Key(u64::from(*generation) << 32 | index as u64), thing))
        })
    }
}

impl<T> std::ops::Index<Key> for Slab<T> {
    type Output = T;
    fn index(&self, key: Key) -> &T {
        self.get(key).expect("the key names a living thing")
    }
}

impl<T> std::ops::IndexMut<Key> for Slab<T> {
    fn index_mut(&mut self, key: Key) -> &mut T {
        self.get_mut(key).expect("the key names a living thing")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_names_the_next_tenant() {
        let mut slab = Slab::default();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_ne!(first, second);
        assert_eq!((slab.get(first), slab.get(second)), (None, Some(&'b')));
        assert_eq!(slab.remove(first), None);
        assert_eq!((slab.len(), slab.is_empty()), (1, false));
        assert_eq!(Key::of(second.number()), second);
    }
}
