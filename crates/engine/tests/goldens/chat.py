"""Makes chat.json: chat templates, conversations, and the texts that transformers renders from them.

    pip install transformers jinja2
    python chat.py

The templates are written for this test; together they use what published templates use: trimmed blocks, namespaces, macros,
loop controls, filters, slices, methods of strings and maps, `tojson`, `generation` tags and `raise_exception`. Where a template
refuses a conversation, `error` has its message.

Made with transformers 5.24.0 and jinja2 3.1.
"""

import json
import pathlib

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

HERE = pathlib.Path(__file__).resolve().parent

CHATML = """{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set system = 'You are a helpful assistant.' -%}
    {%- set rest = messages -%}
{%- endif -%}
{{ '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}
{%- for message in rest %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

TURNS = """{{ bos_token }}
{% if messages[0]['role'] == 'system' %}
  {{ raise_exception('System role not supported') }}
{% endif %}
{% for message in messages %}
  {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
  {% endif %}
  {% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""

TOOLS = """{%- macro describe(tool, depth=0) -%}
  {{- '  ' * depth }}- {{ tool.name }}: {{ tool | tojson }}
{% endmacro -%}
{%- set ns = namespace(last=-1, users=[]) -%}
{%- for message in messages -%}
  {%- if message.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- set ns.users = ns.users + [message.content] -%}{%- endif -%}
{%- endfor -%}
{{- bos_token -}}
{%- if tools is defined and tools is not none %}{% for tool in tools %}{{ describe(tool, 1) }}{% endfor %}{{ tools | tojson(indent=2) }}
{% endif -%}
{%- for message in messages -%}
  {%- if message.role == 'tool' -%}{%- continue -%}{%- endif -%}
  [{{ message.role.upper() }}{% if loop.index0 == ns.last %}*{% endif %}]{{ ' ' }}
  {%- if message.content is string -%}{{ message.content.strip().split('</think>')[-1].lstrip('\\n') }}
  {%- else -%}{{ message.content | tojson }}{%- endif -%}
  {%- if message.get('name') -%}{{ ' (' ~ message.name.title() ~ ')' }}{%- endif -%}
  {{- eos_token if message.role == 'assistant' -}}
{%- endfor -%}
{{ ns.users[::-1] | join(' | ') }}{{ ' ' ~ (messages | selectattr('role', 'equalto', 'user') | list | length) }}
{%- for key, value in {'b': 1, 'a': none, 'c': true}.items() %} {{ key }}={{ value }}{% endfor %}
{%- if messages[-1].content.startswith('Why') and 'not' not in messages[-1].content %} asked{% endif %}
"""

MARKED = """{% for message in messages %}
{% if message.role == "assistant" %}
{% generation %}{{ "A:" + message.content }}{% endgeneration %}

{% else %}
{{ "Q:" + message.content }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}A:{% endif %}"""


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief. <b>&'\""}
TALKS = [
    [user("  Hello, wörld!  ")],
    [user("What is 2 + 2?"), assistant("<think>\nhm\n</think>\n\nFour."), user("Why?\nExplain & <compare>.")],
    [SYSTEM, user("Hi"), assistant("Hello."), user("Why not?")],
    [user("One"), user("Two")],
]
TOOL_LIST = [{"name": "get_weather", "parameters": {"city": "Zürich", "days": [1, 2]}, "strict": True}]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def main():
    cases = []
    for name, source in [("chatml", CHATML), ("turns", TURNS), ("tools", TOOLS), ("marked", MARKED)]:
        template = _compile_jinja_template(source)
        for messages in TALKS:
            for prompt, more in [(True, {}), (False, {"tools": TOOL_LIST}), (True, {"enable_thinking": False})]:
                case = {"name": name, "template": source, "messages": messages, "prompt": prompt, "variables": SPECIAL | more}
                try:
                    case["text"] = template.render(messages=messages, add_generation_prompt=prompt, **SPECIAL, **more)
                except jinja2.exceptions.TemplateError as e:
                    case["error"] = str(e)
                cases.append(case)
    (HERE / "chat.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")
    print(len(cases), "cases,", sum("error" in case for case in cases), "refused")


main()
