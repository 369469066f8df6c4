"""What exists in the simulated market: departments, product types with their names in four languages, colours, places.

A name that ends in `~` is feminine (Spanish, French), so that its colour can agree with it. All brands are invented.
"""

from __future__ import annotations

from dataclasses import dataclass

LANGUAGES = ("en", "es", "fr", "de")
COLOURS = (
    "red", "blue", "green", "yellow", "black", "white", "grey", "brown", "pink", "orange", "purple", "beige",
)  # fmt: skip
PATTERNS = ("plain", "striped", "dotted", "checked", "floral")
MATERIALS = ("fabric", "wood", "metal", "leather", "plastic", "glass", "ceramic", "rattan")
CONDITIONS = ("new", "like_new", "good", "fair", "worn")

_PALETTES = {
    "any": COLOURS,
    "soft": ("grey", "beige", "blue", "green", "brown", "red", "white", "black", "pink", "yellow"),
    "wooden": ("brown", "beige", "white", "black", "grey", "green"),
    "tech": ("black", "grey", "white", "blue", "red", "pink"),
    "bright": ("red", "blue", "green", "yellow", "orange", "purple", "pink", "black", "white"),
    "warm": ("brown", "beige", "red", "orange", "black", "white"),
}
_SIZES = {
    "clothes": ("XS", "S", "M", "L", "XL"),
    "shoes": ("36", "37", "38", "39", "40", "41", "42", "43", "44"),
    "screen": ('24"', '32"', '43"', '55"', '65"'),
    "laptop": ('13"', '14"', '15"', '17"'),
    "wheel": ('16"', '20"', '24"', '26"', '28"'),
    "mattress": ("90x200", "140x200", "160x200", "180x200"),
    "storage": ("64GB", "128GB", "256GB"),
    "rug": ("80x150", "120x170", "160x230", "200x300"),
    "": (),
}
_BRANDS = {
    "Home": ("Velgrin", "Tavolin", "Hjemsund", "Brixandle", "Casarola"),
    "Electronics": ("Zentrik", "Pixorama", "Voltane", "Kyrotek", "Ampelio"),
    "Appliances": ("Glacivo", "Turbello", "Domexa", "Vaporine"),
    "Clothing": ("Lirette", "Marvano", "Stichwell", "Odalina", "Nordfaden"),
    "Shoes & bags": ("Stridonna", "Fleetra", "Pasolino", "Cordwin"),
    "Sports": ("Velocetta", "Ridgecrag", "Kondrix", "Alpivo"),
    "Kids": ("Bimbuna", "Pipkinly", "Totterby"),
    "Garden & tools": ("Grasmora", "Hortiva", "Boltrix", "Eisenhag"),
    "Music & books": ("Harmondel", "Cantabri", "Strumley"),
    "Vehicles": ("Autovane", "Rovanto", "Motrique"),
    "Pets": ("Pawlington", "Fellino"),
}


@dataclass(frozen=True)
class ProductType:
    """One kind of thing: where it sits, what it is called, what it can look like, what it costs new (US dollars)."""

    key: str
    category: str
    price: float
    names: dict[str, tuple[str, ...]]  # language → names, the commonest first
    colours: tuple[str, ...]
    patterns: tuple[str, ...]
    materials: tuple[str, ...]
    sizes: tuple[str, ...]
    near: tuple[str, ...]  # what a searcher might take instead, or a shop confuse it with
    scene: str  # where it is photographed: room, table, outdoors, street
    popularity: float

    @property
    def department(self) -> str:
        """The first step of the category path."""
        return self.category.split(" > ")[0]

    @property
    def brands(self) -> tuple[str, ...]:
        """The brands of the department."""
        return _BRANDS[self.department]


_WOVEN = PATTERNS
_PLAIN = ("plain",)


def _type(
    key: str, category: str, price: float, popularity: float, names: tuple[str, str, str, str], near: str,
    palette: str = "soft", materials: str = "fabric", patterns: tuple[str, ...] = _PLAIN, sizes: str = "",
    scene: str = "room",
) -> ProductType:  # fmt: skip
    return ProductType(
        key, category, price, {lang: tuple(words.split("|")) for lang, words in zip(LANGUAGES, names, strict=True)},
        _PALETTES[palette], patterns, tuple(materials.split()), _SIZES[sizes], tuple(near.split()), scene, popularity,
    )  # fmt: skip


_SEATS, _TABLES, _STORAGE = "Home > Furniture > Sofas & armchairs", "Home > Furniture > Tables", "Home > Furniture > Storage"
_DECOR = "Home > Decoration"
_KITCHEN = "Appliances > Kitchen > Small appliances"

TYPES: tuple[ProductType, ...] = (
    _type("sofa", _SEATS, 620, 10, ("sofa|couch|settee", "sofá|tresillo", "canapé|divan", "Sofa|Couch"),
          "armchair bed bench", materials="fabric leather", patterns=_WOVEN),
    _type("armchair", _SEATS, 260, 6, ("armchair|easy chair|recliner", "sillón|butaca~", "fauteuil|bergère~", "Sessel|Polstersessel"),
          "sofa chair", materials="fabric leather rattan", patterns=_WOVEN),
    _type("chair", "Home > Furniture > Chairs", 70, 7, ("chair|dining chair|side chair", "silla~|silla~ de comedor", "chaise~", "Stuhl|Esszimmerstuhl"),
          "armchair stool", "any", "wood metal plastic rattan"),
    _type("stool", "Home > Furniture > Chairs", 45, 3, ("stool|bar stool", "taburete|banqueta~", "tabouret", "Hocker|Barhocker"),
          "chair", "any", "wood metal plastic"),
    _type("table", _TABLES, 240, 7, ("table|dining table", "mesa~|mesa~ de comedor", "table~|table~ à manger", "Tisch|Esstisch"),
          "desk coffee_table", "wooden", "wood glass metal"),
    _type("coffee_table", _TABLES, 130, 4, ("coffee table|low table", "mesa~ de centro|mesita~", "table~ basse", "Couchtisch|Beistelltisch"),
          "table stool", "wooden", "wood glass rattan"),
    _type("desk", _TABLES, 190, 5, ("desk|writing desk|workstation", "escritorio|mesa~ de estudio", "bureau|secrétaire", "Schreibtisch|Arbeitstisch"),
          "table", "wooden", "wood metal"),
    _type("bed", "Home > Furniture > Beds", 420, 7, ("bed|bed frame", "cama~|base~ de cama", "lit|cadre de lit", "Bett|Bettgestell"),
          "sofa crib", "soft", "wood metal fabric", sizes="mattress"),
    _type("wardrobe", _STORAGE, 330, 4, ("wardrobe|armoire|closet", "armario|ropero", "armoire~|penderie~", "Kleiderschrank|Schrank"),
          "bookcase dresser", "wooden", "wood"),
    _type("bookcase", _STORAGE, 140, 4, ("bookcase|bookshelf|shelves", "estantería~|librero", "bibliothèque~|étagère~", "Bücherregal|Regal"),
          "wardrobe dresser", "wooden", "wood metal"),
    _type("dresser", _STORAGE, 190, 5, ("dresser|chest of drawers", "cómoda~|cajonera~", "commode~", "Kommode|Sideboard"),
          "wardrobe bookcase", "wooden", "wood"),
    _type("lamp", f"{_DECOR} > Lighting", 55, 6, ("lamp|table lamp|light", "lámpara~|luz~", "lampe~|luminaire", "Lampe|Leuchte"),
          "mirror vase", "any", "fabric metal ceramic", _WOVEN),
    _type("rug", f"{_DECOR} > Textiles", 150, 5, ("rug|carpet", "alfombra~|tapete", "tapis|carpette~", "Teppich|Läufer"),
          "curtains cushion", "any", "fabric", _WOVEN, "rug"),
    _type("curtains", f"{_DECOR} > Textiles", 60, 3, ("curtains|drapes", "cortinas~", "rideaux", "Vorhänge|Gardinen"),
          "rug cushion", "any", "fabric", _WOVEN),
    _type("cushion", f"{_DECOR} > Textiles", 20, 4, ("cushion|throw pillow|pillow", "cojín|almohada~", "coussin|oreiller", "Kissen|Zierkissen"),
          "rug curtains", "any", "fabric leather", _WOVEN),
    _type("mirror", f"{_DECOR} > Mirrors & vases", 80, 4, ("mirror|looking glass", "espejo", "miroir|glace~", "Spiegel|Wandspiegel"),
          "lamp vase", "wooden", "wood metal rattan"),
    _type("vase", f"{_DECOR} > Mirrors & vases", 30, 3, ("vase|flower vase", "jarrón|florero", "vase|pot à fleurs", "Vase|Blumenvase"),
          "planter lamp", "any", "ceramic glass", _WOVEN, scene="table"),
    _type("phone", "Electronics > Phones & tablets > Phones", 480, 10, ("phone|smartphone|cell phone|mobile", "móvil|celular|teléfono", "téléphone|smartphone|portable", "Handy|Smartphone"),
          "tablet", "tech", "metal plastic", sizes="storage", scene="table"),
    _type("tablet", "Electronics > Phones & tablets > Tablets", 380, 5, ("tablet|slate", "tableta~|tablet~", "tablette~", "Tablet"),
          "phone laptop", "tech", "metal plastic", sizes="storage", scene="table"),
    _type("laptop", "Electronics > Computers", 850, 9, ("laptop|notebook computer", "portátil|ordenador portátil|laptop~", "ordinateur portable|PC portable", "Laptop|Notebook"),
          "tablet television", "tech", "metal plastic", sizes="laptop", scene="table"),
    _type("television", "Electronics > TV & audio > Televisions", 520, 7, ("TV|television|flat screen", "televisor|tele~|televisión~", "télé~|téléviseur|télévision~", "Fernseher|TV"),
          "laptop speaker", "tech", "plastic", sizes="screen"),
    _type("speaker", "Electronics > TV & audio > Audio", 160, 4, ("speaker|loudspeaker", "altavoz|bocina~", "enceinte~|haut-parleur", "Lautsprecher|Box"),
          "headphones television", "tech", "wood plastic metal", scene="table"),
    _type("headphones", "Electronics > TV & audio > Audio", 140, 6, ("headphones|headset", "auriculares|audífonos", "casque audio|écouteurs", "Kopfhörer|Headset"),
          "speaker", "any", "plastic leather", scene="table"),
    _type("camera", "Electronics > Cameras", 560, 5, ("camera|digital camera", "cámara~|cámara~ de fotos", "appareil photo|caméra~", "Kamera|Fotoapparat"),
          "phone", "tech", "metal leather plastic", scene="table"),
    _type("controller", "Electronics > Gaming", 60, 5, ("game controller|gamepad", "mando|control de juego", "manette~|manette~ de jeu", "Controller|Gamepad"),
          "headphones", "any", "plastic", scene="table"),
    _type("fridge", "Appliances > Large appliances", 560, 5, ("fridge|refrigerator", "nevera~|refrigerador|frigorífico", "frigo|réfrigérateur", "Kühlschrank"),
          "washer", "tech", "metal plastic"),
    _type("washer", "Appliances > Large appliances", 480, 5, ("washing machine|washer", "lavadora~", "lave-linge|machine~ à laver", "Waschmaschine"),
          "fridge microwave", "tech", "metal plastic"),
    _type("microwave", _KITCHEN, 110, 4, ("microwave|microwave oven", "microondas|horno microondas", "micro-ondes|four micro-ondes", "Mikrowelle"),
          "toaster washer", "tech", "metal plastic", scene="table"),
    _type("toaster", _KITCHEN, 45, 3, ("toaster", "tostadora~|tostador", "grille-pain|toasteur", "Toaster"),
          "microwave kettle", "bright", "metal plastic", scene="table"),
    _type("kettle", _KITCHEN, 40, 3, ("kettle|electric kettle|tea kettle", "hervidor|tetera~ eléctrica", "bouilloire~", "Wasserkocher"),
          "toaster coffee_maker", "bright", "metal plastic ceramic", scene="table"),
    _type("coffee_maker", _KITCHEN, 120, 5, ("coffee maker|coffee machine|espresso machine", "cafetera~|máquina~ de café", "cafetière~|machine~ à café", "Kaffeemaschine|Kaffeevollautomat"),
          "kettle toaster", "bright", "metal plastic", scene="table"),
    _type("vacuum", "Appliances > Cleaning", 190, 5, ("vacuum cleaner|vacuum|hoover", "aspiradora~|aspirador", "aspirateur", "Staubsauger"),
          "mower", "bright", "plastic"),
    _type("tshirt", "Clothing > Tops", 22, 6, ("t-shirt|tee|top", "camiseta~|playera~", "t-shirt|maillot", "T-Shirt|Shirt"),
          "sweater dress", "any", "fabric", _WOVEN, "clothes", "table"),
    _type("sweater", "Clothing > Tops", 48, 5, ("sweater|jumper|pullover", "jersey|suéter", "pull|tricot", "Pullover|Strickpulli"),
          "tshirt jacket", "any", "fabric", _WOVEN, "clothes", "table"),
    _type("jacket", "Clothing > Coats & jackets", 110, 7, ("jacket|coat", "chaqueta~|chamarra~|abrigo", "veste~|blouson|manteau", "Jacke|Mantel"),
          "sweater", "any", "fabric leather", ("plain", "checked", "striped"), "clothes", "table"),
    _type("dress", "Clothing > Dresses & skirts", 65, 8, ("dress|gown|frock", "vestido", "robe~", "Kleid|Abendkleid"),
          "skirt tshirt", "any", "fabric", _WOVEN, "clothes", "table"),
    _type("skirt", "Clothing > Dresses & skirts", 38, 4, ("skirt", "falda~", "jupe~", "Rock|Damenrock"),
          "dress trousers", "any", "fabric leather", _WOVEN, "clothes", "table"),
    _type("trousers", "Clothing > Trousers", 55, 6, ("trousers|pants|jeans", "pantalón|vaqueros", "pantalon|jean", "Hose|Jeans"),
          "skirt", "any", "fabric leather", ("plain", "checked", "striped"), "clothes", "table"),
    _type("sneakers", "Shoes & bags > Shoes", 85, 9, ("sneakers|trainers|running shoes", "zapatillas~|tenis|deportivas~", "baskets~|tennis~", "Sneaker|Turnschuhe"),
          "boots heels", "any", "fabric leather", sizes="shoes", scene="table"),
    _type("boots", "Shoes & bags > Shoes", 110, 5, ("boots|ankle boots", "botas~|botines", "bottes~|bottines~", "Stiefel|Boots"),
          "sneakers heels", "any", "leather plastic", sizes="shoes", scene="table"),
    _type("heels", "Shoes & bags > Shoes", 75, 4, ("high heels|heels|pumps", "tacones|zapatos de tacón", "escarpins|talons", "Pumps|High Heels"),
          "boots sneakers", "any", "leather fabric", sizes="shoes", scene="table"),
    _type("handbag", "Shoes & bags > Bags", 90, 7, ("handbag|purse|shoulder bag", "bolso|bolsa~", "sac à main|sacoche~", "Handtasche|Tasche"),
          "backpack suitcase", "any", "leather fabric", _WOVEN, scene="table"),
    _type("backpack", "Shoes & bags > Bags", 60, 5, ("backpack|rucksack", "mochila~", "sac à dos", "Rucksack"),
          "handbag suitcase", "any", "fabric leather", _WOVEN, scene="table"),
    _type("suitcase", "Shoes & bags > Bags", 95, 4, ("suitcase|luggage|trolley", "maleta~", "valise~|bagage", "Koffer|Trolley"),
          "backpack handbag", "any", "plastic fabric leather", _WOVEN),
    _type("hat", "Shoes & bags > Accessories", 28, 3, ("hat|sun hat", "sombrero", "chapeau", "Hut|Sonnenhut"),
          "sunglasses", "any", "fabric rattan leather", _WOVEN, scene="table"),
    _type("sunglasses", "Shoes & bags > Accessories", 55, 4, ("sunglasses|shades", "gafas~ de sol|lentes de sol", "lunettes~ de soleil", "Sonnenbrille"),
          "hat watch", "any", "plastic metal", scene="table"),
    _type("watch", "Shoes & bags > Accessories", 150, 6, ("watch|wristwatch", "reloj|reloj de pulsera", "montre~", "Uhr|Armbanduhr"),
          "sunglasses", "any", "leather metal", scene="table"),
    _type("bicycle", "Sports > Cycling & wheels", 380, 10, ("bike|bicycle|push bike", "bici~|bicicleta~", "vélo|bicyclette~", "Fahrrad|Rad|Bike"),
          "scooter tricycle motorcycle", "any", "metal", sizes="wheel", scene="outdoors"),
    _type("scooter", "Sports > Cycling & wheels", 110, 5, ("scooter|kick scooter", "patinete|patín", "trottinette~|patinette~", "Roller|Tretroller"),
          "bicycle skateboard", "bright", "metal plastic", scene="outdoors"),
    _type("skateboard", "Sports > Cycling & wheels", 70, 4, ("skateboard|longboard", "monopatín|patineta~", "skate|planche~ à roulettes", "Skateboard|Longboard"),
          "scooter surfboard", "bright", "wood plastic", ("plain", "striped", "floral"), scene="outdoors"),
    _type("surfboard", "Sports > Outdoor", 320, 3, ("surfboard|surf board", "tabla~ de surf", "planche~ de surf", "Surfbrett|Surfboard"),
          "skateboard", "bright", "plastic wood", ("plain", "striped", "floral"), scene="outdoors"),
    _type("tent", "Sports > Outdoor", 140, 4, ("tent|camping tent", "tienda~ de campaña|carpa~", "tente~|tente~ de camping", "Zelt|Campingzelt"),
          "parasol backpack", "bright", "fabric", ("plain", "striped"), scene="outdoors"),
    _type("ball", "Sports > Games", 22, 4, ("ball|football|soccer ball", "balón|pelota~", "ballon|balle~", "Ball|Fußball"),
          "racket", "bright", "leather plastic", ("plain", "striped", "dotted"), scene="outdoors"),
    _type("racket", "Sports > Games", 75, 3, ("racket|tennis racquet", "raqueta~", "raquette~", "Schläger|Tennisschläger"),
          "ball guitar", "bright", "metal wood", scene="outdoors"),
    _type("dumbbell", "Sports > Fitness", 45, 4, ("dumbbells|weights", "mancuernas~|pesas~", "haltères", "Hanteln|Gewichte"),
          "ball", "bright", "metal plastic"),
    _type("helmet", "Sports > Cycling & wheels", 50, 3, ("helmet|bike helmet", "casco", "casque de vélo|casque", "Helm|Fahrradhelm"),
          "bicycle hat", "any", "plastic", ("plain", "striped", "dotted"), scene="table"),
    _type("stroller", "Kids > Baby", 280, 5, ("stroller|pushchair|pram|buggy", "carrito|cochecito|carriola~", "poussette~|landau", "Kinderwagen|Buggy"),
          "crib tricycle", "any", "fabric", _WOVEN, scene="outdoors"),
    _type("crib", "Kids > Baby", 180, 4, ("crib|cot|baby bed", "cuna~", "berceau|lit bébé", "Babybett|Gitterbett"),
          "bed stroller", "wooden", "wood metal"),
    _type("teddy", "Kids > Toys", 25, 5, ("teddy bear|stuffed bear|plush toy", "oso de peluche|peluche", "ours en peluche|nounours", "Teddybär|Kuscheltier"),
          "toy_car dollhouse", "warm", "fabric"),
    _type("toy_car", "Kids > Toys", 18, 4, ("toy car|model car", "coche de juguete|carrito de juguete", "petite voiture~|voiture~ miniature", "Spielzeugauto|Modellauto"),
          "teddy car tricycle", "bright", "plastic metal wood", scene="table"),
    _type("dollhouse", "Kids > Toys", 85, 3, ("dollhouse|doll house", "casa~ de muñecas", "maison~ de poupée", "Puppenhaus|Puppenstube"),
          "teddy toy_car", "bright", "wood plastic"),
    _type("tricycle", "Kids > Toys", 65, 3, ("tricycle|trike", "triciclo", "tricycle", "Dreirad"),
          "bicycle scooter toy_car", "bright", "metal plastic", scene="outdoors"),
    _type("mower", "Garden & tools > Garden machines", 290, 4, ("lawn mower|lawnmower|mower", "cortacésped|podadora~", "tondeuse~|tondeuse~ à gazon", "Rasenmäher"),
          "wheelbarrow vacuum", "bright", "metal plastic", scene="outdoors"),
    _type("wheelbarrow", "Garden & tools > Garden machines", 70, 3, ("wheelbarrow|garden cart", "carretilla~", "brouette~", "Schubkarre"),
          "mower planter", "bright", "metal plastic", scene="outdoors"),
    _type("planter", "Garden & tools > Outdoor living", 30, 4, ("planter|flower pot|plant pot", "maceta~|macetero", "jardinière~|pot de fleurs", "Blumentopf|Pflanzkübel"),
          "vase", "warm", "ceramic plastic wood rattan", ("plain", "striped", "dotted"), scene="outdoors"),
    _type("barbecue", "Garden & tools > Outdoor living", 180, 4, ("barbecue|BBQ|grill", "barbacoa~|asador|parrilla~", "barbecue|grill", "Grill|Holzkohlegrill"),
          "parasol", "bright", "metal", scene="outdoors"),
    _type("bench", "Garden & tools > Outdoor living", 150, 3, ("bench|garden bench", "banco|banca~ de jardín", "banc|banc de jardin", "Gartenbank|Bank"),
          "sofa chair", "wooden", "wood metal", scene="outdoors"),
    _type("parasol", "Garden & tools > Outdoor living", 75, 3, ("parasol|sun umbrella|patio umbrella", "sombrilla~|parasol", "parasol|ombrelle~", "Sonnenschirm"),
          "tent", "any", "fabric", _WOVEN, scene="outdoors"),
    _type("drill", "Garden & tools > Tools", 95, 5, ("drill|power drill", "taladro", "perceuse~|visseuse~", "Bohrmaschine|Akkuschrauber"),
          "ladder", "bright", "plastic", scene="table"),
    _type("ladder", "Garden & tools > Tools", 90, 3, ("ladder|stepladder", "escalera~", "échelle~|escabeau", "Leiter|Trittleiter"),
          "drill bookcase", "bright", "metal wood"),
    _type("guitar", "Music & books > Instruments", 220, 7, ("guitar|acoustic guitar", "guitarra~", "guitare~", "Gitarre|Akustikgitarre"),
          "violin keyboard", "warm", "wood"),
    _type("violin", "Music & books > Instruments", 310, 3, ("violin|fiddle", "violín", "violon", "Geige|Violine"),
          "guitar", "warm", "wood"),
    _type("keyboard", "Music & books > Instruments", 340, 4, ("piano|keyboard|synth", "piano|teclado", "piano|synthé", "Klavier|Keyboard"),
          "guitar drum", "tech", "wood plastic"),
    _type("drum", "Music & books > Instruments", 190, 3, ("drum|snare drum", "tambor|batería~", "tambour|batterie~", "Trommel|Schlagzeug"),
          "keyboard", "bright", "wood metal", ("plain", "striped")),
    _type("books", "Music & books > Books", 25, 5, ("books|book collection|novels", "libros|novelas~", "livres|romans", "Bücher|Romane"),
          "bookcase", "any", "fabric leather", scene="table"),
    _type("car", "Vehicles > Cars & motorcycles", 9500, 8, ("car|automobile|vehicle", "coche|carro|auto", "voiture~|auto~", "Auto|PKW|Wagen"),
          "motorcycle toy_car", "any", "metal", scene="street"),
    _type("motorcycle", "Vehicles > Cars & motorcycles", 4200, 5, ("motorcycle|motorbike", "moto~|motocicleta~", "moto~|motocyclette~", "Motorrad|Maschine"),
          "car bicycle scooter", "bright", "metal", scene="street"),
    _type("tyres", "Vehicles > Parts", 220, 4, ("tires|tyres|wheels", "neumáticos|llantas~", "pneus|roues~", "Reifen|Räder"),
          "car", "tech", "metal", scene="street"),
    _type("pet_bed", "Pets > Dogs & cats", 45, 4, ("dog bed|pet bed", "cama~ para perro", "panier pour chien|coussin pour chien", "Hundebett|Hundekorb"),
          "cushion cat_tree", "any", "fabric rattan", _WOVEN),
    _type("cat_tree", "Pets > Dogs & cats", 75, 3, ("cat tree|scratching post", "rascador|árbol para gatos", "arbre à chat|griffoir", "Kratzbaum"),
          "pet_bed", "soft", "fabric rattan"),
    _type("aquarium", "Pets > Fish & birds", 120, 3, ("aquarium|fish tank", "acuario|pecera~", "aquarium", "Aquarium|Fischbecken"),
          "birdcage", "tech", "glass"),
    _type("birdcage", "Pets > Fish & birds", 60, 2, ("bird cage|birdcage", "jaula~|pajarera~", "cage~ à oiseaux|volière~", "Vogelkäfig|Voliere"),
          "aquarium", "bright", "metal"),
)  # fmt: skip

TYPE_NUMBER = {kind.key: number for number, kind in enumerate(TYPES)}


@dataclass(frozen=True)
class Country:
    """A country of the market: its language, currency, share of the market and cities (name, latitude, longitude)."""

    code: str
    language: str
    currency: str
    dollars: float  # units of its currency for one US dollar, rounded: prices are invented anyway
    share: float
    second_language: str
    cities: tuple[tuple[str, float, float], ...]


COUNTRIES: tuple[Country, ...] = (
    Country("us", "en", "USD", 1.0, 0.36, "es", (
        ("San Francisco", 37.775, -122.419), ("New York", 40.713, -74.006), ("Austin", 30.267, -97.743),
        ("Chicago", 41.878, -87.630), ("Seattle", 47.606, -122.332))),
    Country("gb", "en", "GBP", 0.8, 0.14, "fr", (
        ("London", 51.507, -0.128), ("Manchester", 53.481, -2.242), ("Bristol", 51.455, -2.588))),
    Country("es", "es", "EUR", 0.9, 0.13, "en", (
        ("Madrid", 40.417, -3.704), ("Barcelona", 41.387, 2.170), ("Valencia", 39.470, -0.376))),
    Country("mx", "es", "MXN", 17.0, 0.13, "en", (
        ("Ciudad de México", 19.433, -99.133), ("Guadalajara", 20.660, -103.350), ("Monterrey", 25.687, -100.316))),
    Country("fr", "fr", "EUR", 0.9, 0.12, "en", (
        ("Paris", 48.857, 2.352), ("Lyon", 45.764, 4.836), ("Marseille", 43.297, 5.370))),
    Country("de", "de", "EUR", 0.9, 0.12, "en", (
        ("Berlin", 52.520, 13.405), ("Hamburg", 53.551, 9.993), ("München", 48.135, 11.582))),
)  # fmt: skip
