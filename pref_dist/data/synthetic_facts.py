"""What the synthetic rows talk about: ten domains of ten subjects, each with four true facts.

A fact is one cell of a domain's table: the subject gives the row, the attribute the column. Every
attribute can be asked and answered in two wordings. `{s}` is the subject, `{v}` the value.
"""

from typing import NamedTuple


class Domain(NamedTuple):
    """A table of facts: `facts[subject][i]` is the value of attribute i, asked by `questions[i]`."""

    questions: tuple[tuple[str, str], ...]
    answers: tuple[tuple[str, str], ...]
    facts: dict[str, tuple[str, str, str, str]]
    notes: tuple[str, ...]  # background that fits any subject of the domain and answers no question


COUNTRIES = Domain(
    questions=(
        ("What is the capital of {s}?", "Which city is the capital of {s}?"),
        ("What currency is used in {s}?", "Which currency do I need in {s}?"),
        ("What language is spoken in {s}?", "Which language do people speak in {s}?"),
        ("What food is {s} known for?", "Which dish should I try in {s}?"),
    ),
    answers=(
        ("The capital of {s} is {v}.", "{v} is the capital city of {s}."),
        ("The currency of {s} is {v}.", "In {s} people pay in {v}, the national currency."),
        ("The main language of {s} is {v}.", "Most people in {s} speak {v} as their first language."),
        ("A typical dish of {s} is {v}.", "The food that {s} is best known for is {v}."),
    ),
    facts={
        "Japan": ("Tokyo", "yen", "Japanese", "sushi"),
        "Brazil": ("Brasilia", "reals", "Portuguese", "bean stew"),
        "Kenya": ("Nairobi", "shillings", "Swahili", "maize porridge"),
        "Norway": ("Oslo", "kroner", "Norwegian", "smoked salmon"),
        "Thailand": ("Bangkok", "baht", "Thai", "green curry"),
        "Poland": ("Warsaw", "zloty", "Polish", "dumplings"),
        "Turkey": ("Ankara", "lira", "Turkish", "lamb kebab"),
        "Vietnam": ("Hanoi", "dong", "Vietnamese", "noodle soup"),
        "India": ("New Delhi", "rupees", "Hindi", "lentil curry"),
        "Hungary": ("Budapest", "forints", "Hungarian", "goulash"),
    },
    notes=("Travel guides cover this in the first chapter.", "Local people are happy to tell you more."),
)

ANIMALS = Domain(
    questions=(
        ("What does a {s} eat?", "What is the diet of a {s}?"),
        ("How long does a {s} live?", "What is the lifespan of a {s}?"),
        ("Where does a {s} live in the wild?", "What is the habitat of a {s}?"),
        ("What is a baby {s} called?", "What do you call a young {s}?"),
    ),
    answers=(
        ("A {s} eats {v}.", "The diet of a {s} is {v}."),
        ("A {s} lives for {v}.", "The lifespan of a {s} is {v}."),
        ("The habitat of a {s} is {v}.", "In the wild a {s} is found in {v}."),
        ("A baby {s} is called a {v}.", "The name for a young {s} is {v}."),
    ),
    facts={
        "giraffe": ("acacia leaves", "about 25 years", "open savanna", "calf"),
        "penguin": ("fish and krill", "15 to 20 years", "cold southern coasts", "chick"),
        "kangaroo": ("grass and shrubs", "about 20 years", "open grassland", "joey"),
        "wolf": ("deer and elk", "6 to 8 years", "forest and tundra", "pup"),
        "barn owl": ("mice and voles", "about 10 years", "woodland and barns", "owlet"),
        "beaver": ("bark and water plants", "10 to 12 years", "rivers and ponds", "kit"),
        "hedgehog": ("beetles and worms", "3 to 5 years", "hedges and gardens", "hoglet"),
        "tiger": ("deer and wild boar", "10 to 15 years", "dense forest", "cub"),
        "swan": ("water plants and snails", "about 20 years", "lakes and slow rivers", "cygnet"),
        "goat": ("hay, grass and herbs", "15 to 18 years", "rocky hillsides", "kid"),
    },
    notes=("Zoologists have studied this in the field.", "Wildlife parks show it on their signs."),
)

VEGETABLES = Domain(
    questions=(
        ("When should I sow {s}?", "What is the right month to plant {s}?"),
        ("How far apart should {s} be?", "What spacing do {s} need?"),
        ("Which pest attacks {s}?", "Which animal damages {s}?"),
        ("When can I harvest {s}?", "How do I know that {s} are ready to pick?"),
    ),
    answers=(
        ("Sow {s} in {v}.", "The right time to plant {s} is {v}."),
        ("Leave {v} of space between {s}.", "The spacing for {s} is {v}."),
        ("The worst pest of {s} is the {v}.", "Watch {s} for damage by the {v}."),
        ("Harvest {s} {v}.", "You know that {s} are ready to pick {v}."),
    ),
    facts={
        "carrots": ("April", "5 cm", "carrot fly", "when the shoulders show above the soil"),
        "tomatoes": ("March, indoors", "50 cm", "whitefly", "when the fruit is fully red"),
        "beans": ("May", "15 cm", "black aphid", "while the pods still snap"),
        "garlic bulbs": ("October", "12 cm", "onion fly", "when the lower leaves turn yellow"),
        "lettuces": ("late March", "25 cm", "slug", "when the heart feels firm"),
        "pumpkins": ("late April", "120 cm", "squash bug", "when the skin resists a fingernail"),
        "potatoes": ("early April", "35 cm", "potato beetle", "when the tops have died back"),
        "cabbages": ("February, under glass", "45 cm", "white butterfly", "when the head is solid"),
        "radishes": ("mid March", "3 cm", "flea beetle", "four weeks after sowing"),
        "leeks": ("early March", "18 cm", "leek moth", "when the stems are as thick as a thumb"),
    },
    notes=("A little compost never does any harm.", "Gardeners in cold regions wait a bit longer."),
)

DISHES = Domain(
    questions=(
        ("How long do I cook {s}?", "What is the cooking time for {s}?"),
        ("What goes well with {s}?", "What should I serve with {s}?"),
        ("How do I store leftover {s}?", "How should I keep {s} for later?"),
        ("How much {s} do I need per person?", "What is one portion of {s}?"),
    ),
    answers=(
        ("Cook {s} for {v}.", "The cooking time for {s} is {v}."),
        ("{s} goes well with {v}.", "Serve {s} with {v}."),
        ("Store leftover {s} {v}.", "To keep {s} for later, put it {v}."),
        ("Plan {v} of {s} per person.", "One portion of {s} is {v}."),
    ),
    facts={
        "rice": ("15 minutes", "stir-fried greens", "in the fridge within an hour", "75 g"),
        "pasta": ("10 minutes", "basil and olive oil", "in a box with a little oil", "100 g"),
        "salmon": ("12 minutes", "dill and lemon", "on ice for one day", "150 g"),
        "roast chicken": ("80 minutes", "gravy and root mash", "off the bone in the fridge", "250 g"),
        "oatmeal": ("5 minutes", "apple and cinnamon", "in a jar overnight", "50 g"),
        "pizza": ("9 minutes", "a green salad", "wrapped in foil", "half a round"),
        "pumpkin soup": ("25 minutes", "toasted seeds", "in the freezer in cups", "300 ml"),
        "risotto": ("18 minutes", "parmesan and peas", "spread flat on a tray", "80 g"),
        "pancakes": ("2 minutes a side", "maple syrup", "between sheets of paper", "three pieces"),
        "chili": ("90 minutes", "cornbread", "in the freezer for three months", "350 g"),
    },
    notes=("Taste before you add more salt.", "A heavy pan makes the job easier."),
)

METALS = Domain(
    questions=(
        ("What is the chemical symbol of {s}?", "Which symbol stands for {s}?"),
        ("At what temperature does {s} melt?", "What is the melting point of {s}?"),
        ("What is {s} used for?", "What do people make from {s}?"),
        ("What is the density of {s}?", "How dense is {s}?"),
    ),
    answers=(
        ("The chemical symbol of {s} is {v}.", "{s} has the symbol {v}."),
        ("The melting point of {s} is {v} degrees Celsius.", "{s} melts at {v} degrees Celsius."),
        ("The main use of {s} is {v}.", "{s} is used for {v}."),
        ("The density of {s} is {v} grams per cubic centimetre.", "{s} is as dense as {v} grams per millilitre."),
    ),
    facts={
        "gold": ("Au", "1,064", "jewellery and contacts", "19.3"),
        "iron": ("Fe", "1,538", "steel for building", "7.9"),
        "copper": ("Cu", "1,085", "electrical wiring", "9.0"),
        "tin": ("Sn", "232", "solder and cans", "7.3"),
        "lead": ("Pb", "327", "car batteries", "11.3"),
        "silver": ("Ag", "962", "mirrors and cutlery", "10.5"),
        "aluminium": ("Al", "660", "aircraft and foil", "2.7"),
        "zinc": ("Zn", "420", "protecting steel from rust", "7.1"),
        "nickel": ("Ni", "1,455", "coins and stainless steel", "8.9"),
        "titanium": ("Ti", "1,668", "implants and jet engines", "4.5"),
    },
    notes=("Handbooks list the value for the pure metal.", "Small impurities change it a little."),
)

LANGUAGES = Domain(
    questions=(
        ("Who created {s}?", "Who is the author of {s}?"),
        ("When was {s} first released?", "In which year did {s} come out?"),
        ("What is {s} mostly used for?", "What kind of software is written in {s}?"),
        ("What is the file extension of {s} code?", "How do {s} source files end?"),
    ),
    answers=(
        ("{s} was created by {v}.", "The author of {s} is {v}."),
        ("{s} was first released in {v}.", "The year in which {s} came out is {v}."),
        ("{s} is mostly used for {v}.", "Software written in {s} is mostly {v}."),
        ("The file extension of {s} code is {v}.", "{s} source files end in {v}."),
    ),
    facts={
        "Python": ("Guido van Rossum", "1991", "data analysis and scripts", ".py"),
        "Java": ("James Gosling", "1995", "business servers", ".java"),
        "Ruby": ("Yukihiro Matsumoto", "1995", "web sites", ".rb"),
        "Perl": ("Larry Wall", "1987", "text processing", ".pl"),
        "Swift": ("Chris Lattner", "2014", "iPhone apps", ".swift"),
        "Haskell": ("a committee of researchers", "1990", "compilers and finance", ".hs"),
        "Fortran": ("John Backus", "1957", "weather models", ".f90"),
        "Pascal": ("Niklaus Wirth", "1970", "teaching programs", ".pas"),
        "Scala": ("Martin Odersky", "2004", "data pipelines", ".scala"),
        "Kotlin": ("a team at JetBrains", "2011", "Android apps", ".kt"),
    },
    notes=("The official web site has a short history.", "Most editors colour it out of the box."),
)

PLANETS = Domain(
    questions=(
        ("How long is a year on {s}?", "How long does {s} take to go around the sun?"),
        ("How long is a day on {s}?", "How fast does {s} spin?"),
        ("How many moons does {s} have?", "What is the number of moons of {s}?"),
        ("How cold or hot is it on {s}?", "What is the temperature on {s}?"),
    ),
    answers=(
        ("A year on {s} lasts {v}.", "{s} goes around the sun in {v}."),
        ("A day on {s} lasts {v}.", "{s} spins once in {v}."),
        ("{s} has {v}, as far as we know.", "The number of moons of {s}: {v}."),
        ("The temperature on {s} is {v} degrees Celsius.", "It is {v} degrees Celsius on {s}."),
    ),
    facts={
        "Venus": ("225 days", "243 days", "no moon", "464"),
        "Earth": ("365 days", "24 hours", "one moon", "15"),
        "Mars": ("687 days", "25 hours", "two moons", "-63"),
        "Jupiter": ("12 years", "10 hours", "more than 90 moons", "-110"),
        "Saturn": ("29 years", "11 hours", "more than 140 moons", "-140"),
        "Uranus": ("84 years", "17 hours", "at least 27 moons", "-195"),
        "Neptune": ("165 years", "16 hours", "at least 14 moons", "-200"),
        "Pluto": ("248 years", "153 hours", "five moons", "-225"),
        "Ceres": ("4.6 years", "9 hours", "not a single moon", "-105"),
        "Eris": ("558 years", "16 days", "one known moon", "-230"),
    },
    notes=("Space probes have refined the figure.", "Astronomers publish new measurements every year."),
)

INSTRUMENTS = Domain(
    questions=(
        ("Which family does the {s} belong to?", "What type of instrument is the {s}?"),
        ("Who is a famous {s} player?", "Which musician is famous for the {s}?"),
        ("What is a {s} made of?", "Which material is used to build a {s}?"),
        ("How much does a beginner's {s} cost?", "What is the price of a first {s}?"),
    ),
    answers=(
        ("The {s} belongs to the {v} family.", "By type the {s} is a {v} instrument."),
        ("A famous {s} player is {v}.", "The musician most linked with the {s} is {v}."),
        ("A {s} is made of {v}.", "The material used for a {s} is {v}."),
        ("A beginner's {s} costs about {v} dollars.", "The price of a first {s} is near {v} dollars."),
    ),
    facts={
        "violin": ("bowed string", "Niccolo Paganini", "spruce and maple", "200"),
        "flute": ("woodwind", "James Galway", "silver or nickel", "350"),
        "trumpet": ("brass", "Louis Armstrong", "brass sheet", "300"),
        "piano": ("keyboard", "Clara Schumann", "wood, felt and steel wire", "2,500"),
        "guitar": ("plucked string", "Andres Segovia", "cedar and rosewood", "150"),
        "clarinet": ("reed", "Benny Goodman", "African blackwood", "400"),
        "saxophone": ("single reed", "John Coltrane", "lacquered brass", "700"),
        "harp": ("concert string", "Catrin Finch", "beech and gut", "1,800"),
        "drum": ("percussion", "Ringo Starr", "birch and a plastic skin", "90"),
        "organ": ("pipe", "Johann Sebastian Bach", "tin pipes and oak", "5,000"),
    },
    notes=("Any music shop can show you one.", "Teachers differ on such details."),
)

SPORTS = Domain(
    questions=(
        ("How many players are in a {s} team?", "What is the size of a {s} team?"),
        ("How long does a {s} match last?", "What is the duration of a {s} game?"),
        ("Where was {s} invented?", "Which country does {s} come from?"),
        ("What equipment do I need for {s}?", "What gear should I buy to start {s}?"),
    ),
    answers=(
        ("A {s} team has {v} on the field of play.", "The size of a {s} team is {v}."),
        ("A {s} match lasts {v}.", "The duration of a {s} game is {v}."),
        ("{s} was invented in {v}.", "The country that {s} comes from is {v}."),
        ("The equipment you need for {s} is {v}.", "To start {s}, buy this gear: {v}."),
    ),
    facts={
        "football": ("11 players", "90 minutes", "England", "boots and shin guards"),
        "basketball": ("5 players", "40 minutes", "the United States", "a hoop and rubber soles"),
        "volleyball": ("6 players", "up to five sets", "Massachusetts", "a net and knee pads"),
        "rugby": ("15 players", "80 minutes", "Warwickshire", "a mouthguard and studs"),
        "ice hockey": ("six skaters with the goalie", "three periods of 20 minutes", "Canada", "skates and a stick"),
        "handball": ("7 players", "60 minutes", "Denmark", "indoor shoes and resin"),
        "baseball": ("9 players", "nine innings", "New York", "a glove and a bat"),
        "curling": ("4 players", "ten ends", "Scotland", "a broom and a slider"),
        "water polo": ("seven swimmers", "four quarters of 8 minutes", "London", "a cap with ear guards"),
        "badminton": ("one or two players", "three games to 21", "British India", "a racket and shuttlecocks"),
    },
    notes=("Clubs explain this on the first evening.", "Rules for children are a little different."),
)

CLEANING = Domain(
    questions=(
        ("What do I clean {s} with?", "Which cleaner is best for {s}?"),
        ("How often should I clean {s}?", "How many times a year do {s} need cleaning?"),
        ("What should I never use on {s}?", "What is harmful to {s}?"),
        ("How long do {s} need to dry?", "What is the drying time of {s}?"),
    ),
    answers=(
        ("Clean {s} with {v}.", "The best cleaner for {s} is {v}."),
        ("You should clean {s} {v}.", "Cleaning {s} {v} is often enough."),
        ("Never use {v} on {s}.", "Harmful to {s}: {v}."),
        ("{s} need {v} to dry.", "The drying time of {s} is {v}."),
    ),
    facts={
        "windows": ("vinegar and newspaper", "every second month", "a dry scraper", "five minutes"),
        "carpets": ("baking soda", "twice a year", "boiling water", "a whole day"),
        "leather shoes": ("saddle soap", "every few weeks", "a tumble dryer", "one night"),
        "wooden floors": ("a damp mop", "once a week", "steam", "half an hour"),
        "curtains": ("a gentle wash", "each spring", "hot bleach", "three hours on the rail"),
        "oven trays": ("washing soda", "after every roast", "steel wool", "ten minutes"),
        "mattresses": ("a brush and a vacuum", "every change of season", "too much water", "an afternoon"),
        "mirrors": ("alcohol and a soft cloth", "on Saturdays", "sandy sponges", "one minute"),
        "silver spoons": ("foil and salt", "before the holidays", "a dishwasher", "a wipe with a towel"),
        "bath tiles": ("citric acid", "once a month", "wax", "a quarter of an hour"),
    },
    notes=("Try it on a hidden spot first.", "Open the door to let fresh air in."),
)

DOMAINS = (COUNTRIES, ANIMALS, VEGETABLES, DISHES, METALS, LANGUAGES, PLANETS, INSTRUMENTS, SPORTS, CLEANING)
