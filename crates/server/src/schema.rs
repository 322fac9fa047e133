//! The fields of every request: what the parser knows, and what `GET /openapi.json` says.

use serde_json::{Map, Value, json};

/// What a field takes.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Text,
    Flag,
    Whole(i64, i64),
    /// A whole number from here on, whose end is a setting of the server or a property of the model.
    From(i64),
    Number(f64, f64),
    /// One of several kinds of values, or values that the parser looks into.
    Any,
    Object,
}

/// A field of a request.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    kind: Kind,
    about: &'static str,
}

const fn field(name: &'static str, kind: Kind, about: &'static str) -> Field {
    Field { name, kind, about }
}

const NOTHING: &str = "Accepted; no answer depends on it.";
const NEUTRAL: &str = "Not supported: values that would change the answer are refused.";

/// Fields of completions and chat.
pub(crate) const WRITING: &[Field] = &[
    field("model", Kind::Text, "The model. Without it: the first that writes, or that of the state."),
    field("temperature", Kind::Number(0.0, 2.0), "0 is the likeliest token."),
    field(
        "top_p",
        Kind::Number(0.0, 1.0),
        "Sample from the likeliest tokens with this share of the probability; above 0.",
    ),
    field("n", Kind::Whole(1, 16), "Answers to each prompt, which is read once."),
    field("seed", Kind::Any, "An integer of 64 bits: with the same one, the same request has the same answer."),
    field("stop", Kind::Any, "A text or up to 16 texts that end the answer before them."),
    field("include_stop_str_in_output", Kind::Flag, "The text that ended the answer is part of it."),
    field("stream", Kind::Flag, "Send the answer as server-sent events."),
    field("stream_options", Kind::Object, "`include_usage` and `progress`."),
    field("logit_bias", Kind::Object, "What is added to the logits of token ids, -100 to 100."),
    field("user", Kind::Any, NOTHING),
    field("presence_penalty", Kind::Number(-2.0, 2.0), "Subtracted from the logits of tokens that were written."),
    field("frequency_penalty", Kind::Number(-2.0, 2.0), "The same for each time that they were written."),
    field("top_k", Kind::Whole(-1, 1 << 30), "Sample from so many of the likeliest tokens; 0 and -1 are all."),
    field("min_p", Kind::Number(0.0, 1.0), "Drop tokens with less than this share of the likeliest one's probability."),
    field("typical_p", Kind::Number(0.0, 1.0), "Locally typical sampling; above 0."),
    field(
        "repetition_penalty",
        Kind::Number(0.0, 10.0),
        "Divides the logits of tokens of the prompt and the answer; above 0.",
    ),
    field("min_tokens", Kind::Whole(0, 1 << 20), "No token that ends the answer is sampled before."),
    field("stop_token_ids", Kind::Any, "Further tokens that end the answer."),
    field("ignore_eos", Kind::Flag, "Go on behind the model's own end tokens."),
    field("cache_prompt", Kind::Flag, "With `false`, no kept state is used or left."),
    field("cache_salt", Kind::Text, "Kept states are found with the same salt only."),
    field("state", Kind::Text, "The id of a state of `/v1/states` to go on behind."),
    field("return_token_ids", Kind::Flag, "The tokens of each answer, as `token_ids`."),
    field("metadata", Kind::Any, NOTHING),
    field("safety_identifier", Kind::Any, NOTHING),
    field("service_tier", Kind::Any, NOTHING),
    field("prompt_cache_key", Kind::Any, NOTHING),
    field("prompt_cache_retention", Kind::Any, NOTHING),
    field("prompt_cache_options", Kind::Any, NOTHING),
    field("prediction", Kind::Any, NOTHING),
    field("verbosity", Kind::Any, NOTHING),
    field(
        "response_format",
        Kind::Object,
        "`type`: `text`, `json_object`, or `json_schema` with `json_schema.schema`, which the answer fits.",
    ),
    field("grammar", Kind::Object, "`type`: `lark`, `regex` or `choice`, and `value`: what the answer is a text of."),
    field("store", Kind::Any, NEUTRAL),
];

/// Those of [`WRITING`] that no answer depends on.
pub(crate) fn without_effect() -> impl Iterator<Item = &'static str> {
    WRITING.iter().filter(|field| field.about == NOTHING).map(|field| field.name)
}

/// Further fields of completions.
pub(crate) const COMPLETIONS: &[Field] = &[
    field("prompt", Kind::Any, "A text, texts, token ids, or lists of them."),
    field("max_tokens", Kind::From(0), "The most tokens of an answer; with 0 and `echo`, a text is scored."),
    field("logprobs", Kind::Whole(0, 20), "Log-probabilities, and those of so many of the likeliest tokens."),
    field("echo", Kind::Flag, "Repeat the prompt before the answer."),
    field("best_of", Kind::From(1), "As many as `n`."),
    field("suffix", Kind::Any, NEUTRAL),
];

/// Further fields of chat.
pub(crate) const CHAT: &[Field] = &[
    field("messages", Kind::Any, "The conversation: objects with `role` and `content`."),
    field("max_completion_tokens", Kind::From(1), "The most tokens of an answer."),
    field("max_tokens", Kind::From(1), "Another name for it."),
    field("logprobs", Kind::Flag, "Log-probabilities of the tokens."),
    field("top_logprobs", Kind::Whole(0, 20), "Those of so many of the likeliest tokens as well."),
    field("reasoning_effort", Kind::Text, "Given to the chat template, if it takes one."),
    field("chat_template_kwargs", Kind::Object, "Variables of the chat template."),
    field("continue_final_message", Kind::Flag, "Go on with the last message, which is the assistant's."),
    field("tools", Kind::Any, "Functions that may be called: up to 128, with JSON schemas of their arguments."),
    field("tool_choice", Kind::Any, "`none`, `auto`, `required`, or a function by its name."),
    field("parallel_tool_calls", Kind::Flag, "With `false`, an answer has one call at most."),
    field(
        "documents",
        Kind::Object,
        "What to answer from: `vector_store_ids` or `file_ids`, `read` (`auto`, `whole`, `passages`), `max_num_results`.",
    ),
    field("audio", Kind::Any, NEUTRAL),
    field("modalities", Kind::Any, NEUTRAL),
    field("web_search_options", Kind::Any, NEUTRAL),
    field("functions", Kind::Any, NEUTRAL),
    field("function_call", Kind::Any, NEUTRAL),
    field("moderation", Kind::Any, NEUTRAL),
];

/// Fields of `POST /v1/vector_stores`.
pub(crate) const STORES: &[Field] = &[
    field("name", Kind::Text, "A name to show."),
    field("file_ids", Kind::Any, "Up to 500 files."),
    field("model", Kind::Text, "The encoder. Without one, passages are found by their words (BM25)."),
    field("metadata", Kind::Any, NOTHING),
];

/// Fields of `POST /v1/vector_stores/{id}/files`.
pub(crate) const STORE_FILES: &[Field] = &[field("file_id", Kind::Text, "The file.")];

/// Fields of `POST /v1/vector_stores/{id}/search`.
pub(crate) const STORE_SEARCH: &[Field] = &[
    field("query", Kind::Text, "What is searched for."),
    field("max_num_results", Kind::Whole(1, 50), "The most passages; 10 unless said otherwise."),
    field("ranking_options", Kind::Object, "`score_threshold`: passages below it are left out."),
    field("rewrite_query", Kind::Flag, NEUTRAL),
];

/// Fields of `POST /v1/states`.
pub(crate) const STATES: &[Field] = &[
    field("model", Kind::Text, "The model that reads."),
    field("prompt", Kind::Any, "A text or token ids."),
    field("messages", Kind::Any, "A conversation instead of a prompt."),
    field("chat_template_kwargs", Kind::Object, "Variables of the chat template."),
    field("name", Kind::Text, "A name to show."),
    field("stream", Kind::Flag, "Say by server-sent events how much has been read."),
];

/// Fields of embeddings.
pub(crate) const EMBEDDINGS: &[Field] = &[
    field("input", Kind::Any, "A text, texts, token ids, or lists of them."),
    field("model", Kind::Text, "The encoder."),
    field("encoding_format", Kind::Text, "`float` or `base64`."),
    field("dimensions", Kind::From(1), "The first so many numbers of each vector."),
    field("user", Kind::Any, NOTHING),
    field("prompt_name", Kind::Text, "The prompt of the model that stands before each text."),
    field("input_type", Kind::Text, "`query` or `document`."),
    field("long", Kind::Text, "What is done with texts beyond the model's limit: `error`, `truncate` or `mean`."),
];

/// Fields of reranking.
pub(crate) const RERANK: &[Field] = &[
    field("model", Kind::Text, "The cross-encoder or late-interaction model."),
    field("query", Kind::Text, "What is searched for."),
    field("documents", Kind::Any, "Texts, or objects with `text`."),
    field("top_n", Kind::From(1), "The most results."),
    field("return_documents", Kind::Flag, "Repeat the texts."),
    field("max_tokens_per_doc", Kind::From(1), "Each text is cut behind so many tokens."),
];

/// Fields of tokenizing.
pub(crate) const TOKENIZE: &[Field] = &[
    field("model", Kind::Text, "The model."),
    field("content", Kind::Text, "The text."),
    field("prompt", Kind::Text, "Another name for `content`."),
    field("messages", Kind::Any, "A conversation instead of a text."),
    field("add_special", Kind::Flag, "With the special tokens around a text."),
    field("with_pieces", Kind::Flag, "The text of each token as well."),
];

/// Fields of detokenizing.
pub(crate) const DETOKENIZE: &[Field] =
    &[field("model", Kind::Text, "The model."), field("tokens", Kind::Any, "Token ids.")];

/// The names of the fields of some tables.
pub(crate) fn names(tables: &[&'static [Field]]) -> Vec<&'static str> {
    tables.iter().flat_map(|table| table.iter()).map(|field| field.name).collect()
}

fn schema(field: &Field) -> Value {
    let mut schema = match field.kind {
        Kind::Text => json!({"type": ["string", "null"]}),
        Kind::Flag => json!({"type": ["boolean", "null"]}),
        Kind::Whole(least, most) => json!({"type": ["integer", "null"], "minimum": least, "maximum": most}),
        Kind::From(least) => json!({"type": ["integer", "null"], "minimum": least}),
        Kind::Number(least, most) => json!({"type": ["number", "null"], "minimum": least, "maximum": most}),
        Kind::Object => json!({"type": ["object", "null"]}),
        Kind::Any => json!({}),
    };
    schema["description"] = field.about.into();
    schema
}

/// An endpoint that is asked by POST with JSON.
struct Post {
    path: &'static str,
    about: &'static str,
    fields: &'static [&'static [Field]],
    required: &'static [&'static str],
}

const POSTS: &[Post] = &[
    Post { path: "/v1/completions", about: "Goes on with a text", fields: &[WRITING, COMPLETIONS], required: &[] },
    Post {
        path: "/v1/chat/completions",
        about: "Answers a conversation",
        fields: &[WRITING, CHAT],
        required: &["messages"],
    },
    Post {
        path: "/v1/states",
        about: "Reads a text and keeps its state under an id",
        fields: &[STATES],
        required: &[],
    },
    Post { path: "/v1/vector_stores", about: "Indexes files", fields: &[STORES], required: &[] },
    Post { path: "/v1/vector_stores/{id}/files", about: "Adds a file", fields: &[STORE_FILES], required: &["file_id"] },
    Post {
        path: "/v1/vector_stores/{id}/search",
        about: "Finds passages",
        fields: &[STORE_SEARCH],
        required: &["query"],
    },
    Post { path: "/v1/embeddings", about: "Makes vectors of texts", fields: &[EMBEDDINGS], required: &["input"] },
    Post {
        path: "/v1/rerank",
        about: "Orders documents for a query",
        fields: &[RERANK],
        required: &["query", "documents"],
    },
    Post { path: "/tokenize", about: "The tokens of a text", fields: &[TOKENIZE], required: &[] },
    Post { path: "/detokenize", about: "The text of tokens", fields: &[DETOKENIZE], required: &["tokens"] },
];

const GETS: &[(&str, &str)] = &[
    ("/v1/models", "The models that are served"),
    ("/v1/models/{id}", "A model"),
    ("/v1/states", "The states of this key"),
    ("/v1/states/{id}", "A state"),
    ("/v1/states/{id}/content", "The file of a state, as `longreach generate --save-state` writes it"),
    ("/v1/files", "The files of this key"),
    ("/v1/files/{id}", "A file"),
    ("/v1/files/{id}/content", "Its text"),
    ("/v1/vector_stores", "The vector stores of this key"),
    ("/v1/vector_stores/{id}", "A vector store"),
    ("/v1/vector_stores/{id}/files", "Its files"),
    ("/v1/vector_stores/{id}/files/{file}", "One of its files"),
    ("/health", "Whether requests are answered"),
    ("/version", "The version"),
    ("/metrics", "Numbers for Prometheus"),
    ("/openapi.json", "This description"),
];

const DELETES: &[(&str, &str)] = &[
    ("/v1/states/{id}", "Forgets a state"),
    ("/v1/files/{id}", "Forgets a file"),
    ("/v1/vector_stores/{id}", "Forgets a vector store"),
    ("/v1/vector_stores/{id}/files/{file}", "Takes a file out of a vector store"),
];

/// `GET /openapi.json`: OpenAPI 3.1.
pub(crate) fn openapi() -> Value {
    let error = json!({"type": "object", "required": ["error"], "properties": {"error": {
        "type": "object", "required": ["message", "type", "param", "code"],
        "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": {"type": ["string", "null"]},
            "code": {"type": "string"}}}}});
    let responses = |code: &str| {
        let content = json!({"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}});
        json!({code: {"description": "The answer"}, "default": {"description": "Refused or failed", "content": content}})
    };
    let parameter = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
    let mut paths = Map::new();
    let mut put = |path: &str, method: &str, operation: Value| {
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        if path.contains("{file}") {
            methods["parameters"] = json!([parameter("id"), parameter("file")]);
        } else if path.contains("{id}") {
            methods["parameters"] = json!([parameter("id")]);
        }
        methods[method] = operation;
    };
    for post in POSTS {
        let fields = post.fields.iter().flat_map(|table| table.iter());
        let properties: Map<String, Value> = fields.map(|field| (field.name.to_owned(), schema(field))).collect();
        let schema = json!({"type": "object", "additionalProperties": false, "properties": properties, "required": post.required});
        let mut content = json!({"application/json": {"schema": schema}});
        if post.path == "/v1/states" {
            content["application/octet-stream"] = json!({});
        }
        let body = json!({"required": true, "content": content});
        put(post.path, "post", json!({"summary": post.about, "requestBody": body, "responses": responses("200")}));
    }
    for (path, about) in GETS {
        put(path, "get", json!({"summary": about, "responses": responses("200")}));
    }
    for (path, about) in DELETES {
        put(path, "delete", json!({"summary": about, "responses": responses("200")}));
    }
    let text = json!({"type": "string"});
    let form = json!({"type": "object", "properties": {"file": {"type": "string", "format": "binary"}, "purpose": text}, "required": ["file"]});
    let body = json!({"required": true, "content": {"multipart/form-data": {"schema": form}}});
    put("/v1/files", "post", json!({"summary": "Takes a text", "requestBody": body, "responses": responses("200")}));
    let key = json!({"type": "http", "scheme": "bearer"});
    json!({"openapi": "3.1.0", "info": {"title": "longreach", "version": env!("CARGO_PKG_VERSION")}, "paths": paths,
        "components": {"schemas": {"Error": error}, "securitySchemes": {"key": key}}, "security": [{}, {"key": []}]})
}
