"""Graders as people write them: source and reward.

Every one gets `SAMPLE` and `ITEM`; those made by `_full` need the full image.
"""

from typing import Any

import msgspec


class Program(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    source: str
    reward: float
    full: bool = False


SAMPLE: dict[str, Any] = {"output_text": "the cat sat", "output_json": {"v": 0.25}}
ITEM: dict[str, Any] = {"reference_answer": "the cat sat", "n": 4}


def _p(id_: str, source: str, reward: float) -> Program:
    return Program(id=id_, source=source, reward=reward)


def _full(id_: str, source: str, reward: float) -> Program:
    return Program(id=id_, source=source, reward=reward, full=True)


PROGRAMS = (
    _p("constant", "def grade(sample, item) -> float:\n    return 1.0", 1.0),
    _p("exact", "def grade(sample, item):\n    return sample['output_text'] == item['reference_answer']", 1.0),
    _p("json-output", "def grade(sample, item):\n    return sample['output_json']['v']", 0.25),
    _p("regex", "import re\ndef grade(s, i):\n    return len(re.findall(r'\\b\\w{3}\\b', s['output_text'])) / 4", 0.75),
    _p("print", "def grade(s, i):\n    print('x', s)\n    return 0.5", 0.5),
    _p("stdout-buffer", "import sys\ndef grade(s, i):\n    sys.stdout.buffer.write(b'x')\n    sys.stderr.write('y')\n    return 0.5", 0.5),
    _p("module-state", "CACHE = {}\ndef grade(s, i):\n    CACHE['n'] = CACHE.get('n', 0) + 1\n    return CACHE['n']", 1.0),
    _p("helper-class", "class G:\n    def __init__(self, w):\n        self.w = w\n    def __call__(self, s):\n        return self.w * len(s)\n"
       "def grade(s, i):\n    return G(0.1)(s['output_text'])", 1.1),
    _p("dataclass", "from dataclasses import dataclass, field\n@dataclass\nclass R:\n    a: float = 0.5\n    b: list['R'] = field(default_factory=list)\n"
       "def grade(s, i):\n    return R().a", 0.5),
    _p("annotations", "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import get_type_hints\n"
       "@dataclass\nclass R:\n    a: float\ndef grade(s: dict, i: dict) -> float:\n    return R(1.0).a * (get_type_hints(R)['a'] is float)", 1.0),
    _p("enum", "import enum\nclass E(enum.Enum):\n    A = 1\ndef grade(s, i):\n    return E.A.value", 1.0),
    _p("pickle", "import pickle\nclass P:\n    x = 3\ndef grade(s, i):\n    return pickle.loads(pickle.dumps(P())).x", 3.0),
    _p("main-guard", "def grade(s, i):\n    return 0.5\nif __name__ == '__main__':\n    raise SystemExit(grade({}, {}))", 0.5),
    _p("counter-f1", "from collections import Counter\ndef grade(s, i):\n    a, b = Counter(s['output_text'].split()), Counter(i['reference_answer'].split())\n"
       "    t = sum((a & b).values())\n    return 2 * t / (sum(a.values()) + sum(b.values()))", 1.0),
    _p("difflib", "import difflib\ndef grade(s, i):\n    return difflib.SequenceMatcher(None, s['output_text'], 'the cat').ratio()", 14 / 18),
    _p("decimal", "from decimal import Decimal\ndef grade(s, i):\n    return float(Decimal('0.1') + Decimal('0.2'))", 0.3),
    _p("fractions", "from fractions import Fraction\ndef grade(s, i):\n    return float(Fraction(1, 3) + Fraction(1, 6))", 0.5),
    _p("statistics", "import statistics\ndef grade(s, i):\n    return statistics.mean([1, 2, 3])", 2.0),
    _p("datetime", "from datetime import datetime, timedelta\ndef grade(s, i):\n    return (datetime(2025, 1, 2) - datetime(2025, 1, 1)) / timedelta(days=2)", 0.5),
    _p("zoneinfo", "import zoneinfo, datetime\ndef grade(s, i):\n    return zoneinfo.ZoneInfo('UTC').utcoffset(datetime.datetime(2025, 1, 1)).total_seconds()", 0.0),
    _p("hashlib", "import hashlib, base64\ndef grade(s, i):\n    return len(base64.b64encode(hashlib.sha256(b'x').digest())) / 88", 0.5),
    _p("csv", "import csv, io\ndef grade(s, i):\n    return len(list(csv.DictReader(io.StringIO('a,b\\n1,2\\n3,4\\n')))) / 4", 0.5),
    _p("xml", "import xml.etree.ElementTree as E\ndef grade(s, i):\n    return len(E.fromstring('<a><b/><b/></a>')) / 4", 0.5),
    _p("sqlite", "import sqlite3\ndef grade(s, i):\n    c = sqlite3.connect(':memory:')\n    c.execute('create table t (x)')\n"
       "    c.executemany('insert into t values (?)', [(1,), (2,)])\n    return c.execute('select avg(x) from t').fetchone()[0]", 1.5),
    _p("sqlite-file", "import sqlite3\ndef grade(s, i):\n    c = sqlite3.connect('t.db')\n    c.execute('create table t (x)')\n    c.commit()\n    return 0.5", 0.5),
    _p("ast-exec", "import ast\ndef grade(s, i):\n    ns = {}\n    exec(compile(ast.parse('y = 2 ** 3'), 'x', 'exec'), ns)\n    return ns['y']", 8.0),
    _p("eval", "def grade(s, i):\n    return eval('n / 8', {'n': i['n']})", 0.5),
    _p("tempfile", "import tempfile, os\ndef grade(s, i):\n    with tempfile.TemporaryDirectory() as d:\n        p = os.path.join(d, 'x')\n"
       "        open(p, 'w').write('ab')\n        return os.path.getsize(p) / 4", 0.5),
    _p("shutil-tar", "import shutil, tarfile, os\ndef grade(s, i):\n    open('a', 'w').write('x')\n    shutil.copy('a', 'b')\n"
       "    with tarfile.open('t.tar', 'w') as t:\n        t.add('b')\n    os.mkdir('o')\n    with tarfile.open('t.tar') as t:\n        t.extractall('o')\n"
       "    return float(os.path.exists('o/b'))", 1.0),
    _p("threads", "import threading\ndef grade(s, i):\n    out = []\n    ts = [threading.Thread(target=out.append, args=(n,)) for n in range(4)]\n"
       "    [t.start() for t in ts]\n    [t.join() for t in ts]\n    return len(out) / 8", 0.5),
    _p("thread-pool", "from concurrent.futures import ThreadPoolExecutor\ndef grade(s, i):\n    with ThreadPoolExecutor(4) as e:\n"
       "        return sum(e.map(lambda x: x * x, range(4)))", 14.0),
    _p("asyncio", "import asyncio\nasync def f():\n    await asyncio.sleep(0.001)\n    return 0.5\ndef grade(s, i):\n    return asyncio.run(f())", 0.5),
    _p("signal-alarm", "import signal\ndef grade(s, i):\n    def late(*_):\n        raise TimeoutError\n    signal.signal(signal.SIGALRM, late)\n"
       "    signal.setitimer(signal.ITIMER_REAL, 0.02)\n    try:\n        while True:\n            pass\n    except TimeoutError:\n        return 0.5", 0.5),
    _p("caught-network", "import urllib.request\ndef grade(s, i):\n    try:\n        urllib.request.urlopen('http://example.com', timeout=1)\n    except OSError:\n"
       "        return 0.5\n    return 0.0", 0.5),
    _p("unicode", "import unicodedata\ndef grade(s, i):\n    return len(unicodedata.normalize('NFKD', '東京タワー é')) / 8", 1.0),
    _p("recursion", "import functools\n@functools.cache\ndef f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)\ndef grade(s, i):\n    return f(200) / f(200)", 1.0),
    _p("default-argument", "def grade(sample, item, weight=0.5):\n    return weight", 0.5),
    _p("lambda", "grade = lambda sample, item: 0.5", 0.5),
    _p("uuid-secrets", "import uuid, secrets\ndef grade(s, i):\n    return float(uuid.uuid4() != uuid.uuid4() and len(secrets.token_hex(4)) == 8)", 1.0),
    _p("logging", "import logging\nlogging.basicConfig(level=logging.INFO)\ndef grade(s, i):\n    logging.info('x')\n    return 0.5", 0.5),
    _p("inspect-source", "import inspect\ndef grade(s, i):\n    return float('return float' in inspect.getsource(grade))", 1.0),
    _p("rapidfuzz", "from rapidfuzz import fuzz, utils\ndef grade(s, i):\n    return fuzz.WRatio('fuzzy wuzzy was a bear', 'fuzzy wuzzy had no hair', processor=utils.default_process) / 100",
       0.7555555555555555),
    _full("numpy", "import numpy as np\ndef grade(s, i):\n    return np.float64(np.linalg.norm([3, 4]) / 10)", 0.5),
    _full("numpy-random", "import numpy as np\ndef grade(s, i):\n    return float(0 <= np.random.rand() < 1 and np.random.default_rng(0).integers(5) >= 0)", 1.0),
    _full("scipy", "from scipy import stats, optimize\ndef grade(s, i):\n    return stats.norm.cdf(0) * optimize.brentq(lambda x: x - 1, 0, 3)", 0.5),
    _full("sympy", "import sympy\ndef grade(s, i):\n    x = sympy.Symbol('x')\n    return float(sympy.simplify(sympy.sympify('(x+1)**2 - x**2 - 2*x - 1')) == 0)", 1.0),
    _full("pandas", "import pandas as pd\ndef grade(s, i):\n    d = pd.DataFrame({'a': [1, 2, 3], 'g': ['x', 'y', 'x']})\n    return d.groupby('g')['a'].mean()['x'] / 4", 0.5),
    _full("pandas-csv", "import pandas as pd, io\ndef grade(s, i):\n    return pd.read_csv(io.StringIO('a\\n1\\n2\\n'))['a'].sum()", 3.0),
    _full("sklearn", "from sklearn.metrics import f1_score\ndef grade(s, i):\n    return f1_score([0, 1, 1, 0], [0, 1, 0, 0])", 2 / 3),
    _full("sklearn-kmeans", "from sklearn.cluster import KMeans\nimport numpy as np\ndef grade(s, i):\n"
          "    return len(set(KMeans(2, n_init=1).fit_predict(np.array([[0.0], [0.1], [9.0], [9.1]]))))", 2.0),
    _full("sklearn-tfidf", "from sklearn.feature_extraction.text import TfidfVectorizer\nfrom sklearn.metrics.pairwise import cosine_similarity\n"
          "def grade(s, i):\n    return round(cosine_similarity(TfidfVectorizer().fit_transform(['a cat sat', 'a cat sat']))[0, 1], 6)", 1.0),
    _full("nltk-bleu", "from nltk.translate.bleu_score import sentence_bleu\ndef grade(s, i):\n    return sentence_bleu([['the', 'cat', 'sat', 'on']], ['the', 'cat', 'sat', 'on'])", 1.0),
    _full("nltk-tokenize", "from nltk.tokenize import word_tokenize\nfrom nltk.stem import PorterStemmer\ndef grade(s, i):\n"
          "    return len(word_tokenize(\"don't stop\", preserve_line=True)) * (PorterStemmer().stem('running') == 'run')", 3.0),
    _full("nltk-wordnet", "from nltk.corpus import wordnet\ndef grade(s, i):\n    return float(wordnet.synset('dog.n.01').definition().startswith('a member'))", 1.0),
    _full("rouge", "from rouge_score import rouge_scorer\ndef grade(s, i):\n    return rouge_scorer.RougeScorer(['rougeL'], use_stemmer=True).score(s['output_text'], i['reference_answer'])['rougeL'].fmeasure", 1.0),
    _full("jsonschema", "import jsonschema\ndef grade(s, i):\n    try:\n        jsonschema.validate({'a': 'x'}, {'properties': {'a': {'type': 'integer'}}})\n"
          "    except jsonschema.ValidationError:\n        return 0.5", 0.5),
    _full("pydantic", "from pydantic import BaseModel, ValidationError\nclass M(BaseModel):\n    v: float\n    w: 'int | None' = None\n"
          "def grade(s, i):\n    return M.model_validate(s['output_json']).v", 0.25),
    _full("yaml", "import yaml\ndef grade(s, i):\n    return yaml.safe_load('a: [1, 2]')['a'][1]", 2.0),
    _full("sqlparse", "import sqlparse\ndef grade(s, i):\n    return len(sqlparse.parse('select 1; select 2')) / 4", 0.5),
    _full("rdkit", "from rdkit import Chem\nfrom rdkit.Chem import Descriptors, AllChem\ndef grade(s, i):\n    m = Chem.MolFromSmiles('CCO')\n    return round(Descriptors.MolWt(m), 1)", 46.1),
    _full("rdkit-fingerprint", "from rdkit import Chem, DataStructs\ndef grade(s, i):\n    f = [Chem.RDKFingerprint(Chem.MolFromSmiles(x)) for x in ('CCO', 'CCO')]\n    return DataStructs.TanimotoSimilarity(*f)", 1.0),
    _full("skbio", "from skbio import DNA\ndef grade(s, i):\n    return DNA('ACGT').gc_content()", 0.5),
    _full("ast-grep", "from ast_grep_py import SgRoot\ndef grade(s, i):\n    return float(SgRoot('print(1)', 'python').root().find(pattern='print($A)') is not None)", 1.0),
    _full("deepdiff", "from deepdiff import DeepDiff\ndef grade(s, i):\n    return float(not DeepDiff({'a': [1, 2]}, {'a': [2, 1]}, ignore_order=True))", 1.0),
    _full("joblib", "from joblib import Parallel, delayed\ndef grade(s, i):\n    return sum(Parallel(n_jobs=2, prefer='threads')(delayed(abs)(x) for x in (-1, 2)))", 3.0),
    _full("requests-caught", "import requests\ndef grade(s, i):\n    try:\n        requests.get('http://example.com', timeout=1)\n    except requests.RequestException:\n        return 0.5\n    return 0.0", 0.5),
    _full("lazy-import", "def grade(s, i):\n    import numpy\n    return numpy.ones(2).sum() / 4", 0.5),
)  # fmt: skip
