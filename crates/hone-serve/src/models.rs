//! The models that are served, with what their prompts and answers need.

use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock};

use hone_generate::raw_stop_tokens;
use hone_model::Transformer;
use hone_text::{Chat, TextError, Tokenizer};
use hone_train::Scorer;

use crate::error::ServeError;

/// A model to be served under a name.
pub struct ServedModel {
    /// The name that clients give.
    pub name: String,
    /// The name of the model that an adapter stands on.
    pub parent: Option<String>,
    /// Its weights; adapters of one model share those of it ([`Transformer::duplicate`]). One with a head is a reward model.
    pub model: Transformer,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

/// The models that are served. More can be added, each behind the last; the place of one that is taken away stays empty, so a
/// model's place stays its own.
pub(crate) struct Models {
    places: RwLock<Vec<Option<InUse>>>,
    given: usize,
}

/// A model that is not taken away for as long as something is done with it.
#[derive(Clone)]
pub(crate) struct InUse {
    served: Arc<Served>,
    /// Held once by the model's place, and once by each that uses it.
    uses: Arc<()>,
}

impl Deref for InUse {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.served
    }
}

impl InUse {
    fn new(served: Arc<Served>) -> Self {
        Self {
            served,
            uses: Arc::new(()),
        }
    }

    /// The model, which may be taken away meanwhile: for what does not compute with it.
    pub fn served(&self) -> Arc<Served> {
        Arc::clone(&self.served)
    }
}

/// A model that was taken away.
pub(crate) struct Taken {
    /// Its place.
    pub place: usize,
    model: InUse,
}

/// Why a model is not taken away.
#[derive(Debug)]
pub(crate) enum Kept<E> {
    /// Something is being done with it.
    InUse,
    /// What stands against it.
    Because(E),
}

impl Models {
    /// These, of which the first so many were given to the server and the others were tuned by it.
    pub fn new(models: Vec<Arc<Served>>, given: usize) -> Self {
        Self {
            places: RwLock::new(models.into_iter().map(InUse::new).map(Some).collect()),
            given,
        }
    }

    /// How many were given to the server.
    pub fn given(&self) -> usize {
        self.given
    }

    /// All of them at this moment.
    pub fn all(&self) -> Arc<[Arc<Served>]> {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        places.iter().flatten().map(InUse::served).collect()
    }

    /// One more, behind the last, if `confirm` agrees; while that looks, nobody finds it. Otherwise the place stays empty.
    ///
    /// # Errors
    /// What `confirm` says, with the empty place.
    pub fn add<T, E>(&self, served: Arc<Served>, confirm: impl FnOnce() -> Result<T, E>) -> Result<T, (usize, E)> {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let confirmed = confirm();
        places.push(confirmed.is_ok().then(|| InUse::new(served)));
        confirmed.map_err(|error| (places.len() - 1, error))
    }

    /// The model of this name.
    pub fn named(&self, name: &str) -> Option<Arc<Served>> {
        self.find(name).map(|(_, model)| model.served())
    }

    /// The model of this name and its place, to do something with it.
    pub fn find(&self, name: &str) -> Option<(usize, InUse)> {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        let place = place_of(&places, name)?;
        Some((place, places[place].clone()?))
    }

    /// Whether the model of this name was given to the server.
    pub fn is_given(&self, name: &str) -> bool {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        place_of(&places, name).is_some_and(|place| place < self.given)
    }

    /// The first of the models that were given to the server.
    pub fn first(&self) -> Option<(usize, InUse)> {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        Some((0, places.first()?.clone()?))
    }

    /// Takes a model away, if nothing is being done with it and `against` finds nothing either; while that looks, nothing begins.
    /// None where it is not served.
    pub fn take<E>(&self, name: &str, against: impl FnOnce() -> Result<(), E>) -> Result<Option<Taken>, Kept<E>> {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let place = place_of(&places, name);
        let in_use = |place: usize| {
            places[place]
                .as_ref()
                .is_some_and(|model| Arc::strong_count(&model.uses) > 1)
        };
        if place.is_some_and(in_use) {
            return Err(Kept::InUse);
        }
        against().map_err(Kept::Because)?;
        Ok(place.and_then(|place| {
            let model = places[place].take()?;
            Some(Taken { place, model })
        }))
    }

    /// Puts a model back that was taken away.
    pub fn put_back(&self, taken: Taken) {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        places[taken.place] = Some(taken.model);
    }
}

/// Where the model of this name stands.
fn place_of(places: &[Option<InUse>], name: &str) -> Option<usize> {
    let is = |model: &Option<InUse>| model.as_ref().is_some_and(|model| model.name == name);
    places.iter().position(is)
}

/// What a model computes.
pub(crate) enum Weights {
    /// Next tokens.
    Language(Box<Transformer>),
    /// Scores.
    Reward(Box<Scorer>),
}

/// A model as the server knows it.
pub(crate) struct Served {
    pub name: String,
    pub parent: Option<String>,
    pub weights: Weights,
    pub tokenizer: Tokenizer,
    /// None for a base model.
    pub chat: Option<Chat>,
    /// Tokens that end an answer in a conversation.
    pub chat_stop: Arc<[u32]>,
    /// Tokens that end a completion of raw text.
    pub raw_stop: Arc<[u32]>,
}

impl Served {
    pub fn new(model: ServedModel) -> Result<Self, ServeError> {
        let ServedModel {
            name,
            parent,
            model,
            tokenizer,
        } = model;
        let template = |source: TextError| ServeError::Template {
            name: name.clone(),
            source,
        };
        let chat = match tokenizer.chat_template() {
            Some(_) => Some(Chat::new(&tokenizer).map_err(template)?),
            None => None,
        };
        let raw_stop = raw_stop_tokens(&tokenizer);
        let chat_stop = match &chat {
            Some(chat) => chat.stop_ids().map_err(template)?,
            None => raw_stop.clone(),
        };
        let weights = if model.has_head() {
            let scorer = Scorer::new(model, tokenizer.clone());
            let scorer = scorer.map_err(|source| ServeError::Reward {
                name: name.clone(),
                source,
            })?;
            Weights::Reward(Box::new(scorer))
        } else {
            Weights::Language(Box::new(model))
        };
        Ok(Self {
            name,
            parent,
            weights,
            tokenizer,
            chat,
            chat_stop: chat_stop.into(),
            raw_stop: raw_stop.into(),
        })
    }

    /// The weights, whatever they compute.
    pub fn transformer(&self) -> &Transformer {
        match &self.weights {
            Weights::Language(model) => model,
            Weights::Reward(scorer) => scorer.model(),
        }
    }

    /// Tokens that a sequence may have.
    pub fn context(&self) -> usize {
        self.transformer().architecture().context
    }

    /// Rows of the embedding.
    pub fn vocabulary(&self) -> usize {
        self.transformer().architecture().vocab_size
    }

    pub fn is_reward(&self) -> bool {
        matches!(self.weights, Weights::Reward(_))
    }
}
